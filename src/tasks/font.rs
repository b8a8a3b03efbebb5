//! The built-in bitmap font: the ten digits, five dots wide and seven tall.

/// Dots across a glyph.
pub(super) const GLYPH_WIDTH: u32 = 5;
/// Dots down a glyph.
pub(super) const GLYPH_HEIGHT: u32 = 7;

/// Rows from the top; the highest of five bits is the left dot.
const DIGITS: [[u8; GLYPH_HEIGHT as usize]; 10] = [
    [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
    [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
    [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111],
    [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110],
    [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
    [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
    [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
    [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
    [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
];

/// The dots (across, down) that are inked in the glyph of `digit`, which is 0 to 9.
pub(super) fn dots(digit: u8) -> impl Iterator<Item = (u32, u32)> {
    let rows = DIGITS[usize::from(digit % 10)];
    (0..GLYPH_HEIGHT).flat_map(move |down| {
        let row = rows[down as usize];
        (0..GLYPH_WIDTH)
            .filter(move |across| row >> (GLYPH_WIDTH - 1 - across) & 1 == 1)
            .map(move |across| (across, down))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glyphs_differ_pairwise_in_several_dots() {
        let glyphs: Vec<Vec<_>> = (0..10).map(|digit| dots(digit).collect()).collect();
        for (left, a) in glyphs.iter().enumerate() {
            for (right, b) in glyphs.iter().enumerate().skip(left + 1) {
                let differing =
                    a.iter().filter(|dot| !b.contains(dot)).count() + b.iter().filter(|dot| !a.contains(dot)).count();
                assert!(differing >= 3, "{left} and {right} differ in {differing} dots");
            }
        }
    }
}
