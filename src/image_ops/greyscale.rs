//! Lightness.

use std::sync::Arc;

use image::RgbImage;

use super::buffer;

/// The picture without its colours, as `Image.convert("L").convert("RGB")` does.
pub fn greyscale(picture: &Arc<RgbImage>) -> Arc<RgbImage> {
    let grey = buffer::pixels(picture).iter().flat_map(|pixel| [lightness(*pixel); 3]).collect();
    buffer::picture(picture.width(), picture.height(), grey)
}

/// Pillow's `L` (`L24` of `Convert.c`): ITU-R 601-2 luma in 16-bit fixed point, rounded.
pub(super) fn lightness(pixel: [u8; 3]) -> u8 {
    let [red, green, blue] = pixel.map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}
