//! Mirror images.

use std::sync::Arc;

use image::RgbImage;

use super::buffer;

/// Left and right exchanged, as `Image.transpose(FLIP_LEFT_RIGHT)` does.
pub fn flip_horizontal(picture: &Arc<RgbImage>) -> Arc<RgbImage> {
    let mut flipped = buffer::bytes(picture).to_vec();
    let (pixels, _) = flipped.as_chunks_mut::<3>();
    pixels.chunks_mut((picture.width() as usize).max(1)).for_each(<[_]>::reverse);
    buffer::picture(picture.width(), picture.height(), flipped)
}

/// Top and bottom exchanged, as `Image.transpose(FLIP_TOP_BOTTOM)` does.
pub fn flip_vertical(picture: &Arc<RgbImage>) -> Arc<RgbImage> {
    let rows = buffer::bytes(picture).chunks_exact((picture.width() as usize * 3).max(1));
    let flipped = rows.rev().collect::<Vec<_>>().concat();
    buffer::picture(picture.width(), picture.height(), flipped)
}
