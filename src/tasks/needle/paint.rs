//! What pictures are painted of: a wall, rectangles, digits.

use image::{Rgb, RgbImage};

use crate::tasks::font::{self, GLYPH_HEIGHT, GLYPH_WIDTH};

/// The colour of digits.
const INK: Rgb<u8> = Rgb([10, 10, 10]);

/// A wall, `side` pixels square, that grows redder to the right and bluer downwards, so that a patch knows its place; `tone` is added to all of it.
pub(super) fn wall(side: u32, tone: i32) -> RgbImage {
    let shade = |at: u32, low: u32, range: u32| (low + range * at / side).saturating_add_signed(tone) as u8;
    let reds: Vec<u8> = (0..side).map(|x| shade(x, 30, 120)).collect();
    let green = shade(0, 60, 0);
    let mut pixels = Vec::with_capacity((side * side * 3) as usize);
    for y in 0..side {
        let blue = shade(y, 30, 120);
        pixels.extend(reds.iter().flat_map(|&red| [red, green, blue]));
    }
    RgbImage::from_raw(side, side, pixels).unwrap_or_default()
}

/// A filled rectangle of `size` (width, height), whose left and top are at `at`.
pub(super) fn fill(picture: &mut RgbImage, at: (u32, u32), size: (u32, u32), colour: Rgb<u8>) {
    for y in at.1..at.1 + size.1 {
        for x in at.0..at.0 + size.0 {
            picture.put_pixel(x, y, colour);
        }
    }
}

/// A digit about `centre`, each of its dots `dot` pixels square.
pub(super) fn paint_digit(picture: &mut RgbImage, centre: (u32, u32), dot: u32, digit: u8) {
    let (left, top) = (centre.0 - GLYPH_WIDTH * dot / 2, centre.1 - GLYPH_HEIGHT * dot / 2);
    for (across, down) in font::dots(digit) {
        fill(picture, (left + across * dot, top + down * dot), (dot, dot), INK);
    }
}
