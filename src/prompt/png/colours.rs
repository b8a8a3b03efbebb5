//! The colours of a PNG's pixels, made RGB of 8 bits as Pillow does it.

use super::header::{Colour, Form};

/// The colours of a row's pixels. Of 16 bits the upper 8 count, but in grey, where Pillow clips.
pub(super) fn colour<'a>(
    form: &Form,
    palette: &[[u8; 3]; 256],
    row: &[u8],
    places: impl Iterator<Item = &'a mut [u8; 3]>,
) {
    let places = places.enumerate();
    let packed = |i: usize| {
        let at = i * form.bits;
        row[at / 8] >> (8 - form.bits - at % 8) & (u8::MAX >> (8 - form.bits))
    };
    let high = |channels: usize, i: usize, channel: usize| row[(i * channels + channel) * (form.bits / 8)];
    match (form.colour, form.bits) {
        (Colour::Grey, 16) => {
            places.for_each(|(i, place)| *place = [if row[2 * i] > 0 { 255 } else { row[2 * i + 1] }; 3]);
        }
        (Colour::Grey, bits) => {
            let step = u8::MAX / (u8::MAX >> (8 - bits));
            places.for_each(|(i, place)| *place = [packed(i) * step; 3]);
        }
        (Colour::Palette, _) => places.for_each(|(i, place)| *place = palette[usize::from(packed(i))]),
        (Colour::Rgb, 8) => places.for_each(|(i, place)| *place = row.as_chunks().0[i]),
        (Colour::Rgb, _) => places.for_each(|(i, place)| *place = [0, 1, 2].map(|channel| high(3, i, channel))),
        // Pillow drops this alpha, and takes 16 bits of both for RGB with alpha.
        (Colour::GreyAlpha, 8) => places.for_each(|(i, place)| *place = [row[2 * i]; 3]),
        (Colour::GreyAlpha, _) => {
            places.for_each(|(i, place)| *place = over_white([high(2, i, 0); 3], high(2, i, 1)));
        }
        (Colour::Rgba, _) => {
            let rgb = |i| [0, 1, 2].map(|channel| high(4, i, channel));
            places.for_each(|(i, place)| *place = over_white(rgb(i), high(4, i, 3)));
        }
    }
}

/// A colour laid over white.
pub fn over_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|level| ((u32::from(level) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}
