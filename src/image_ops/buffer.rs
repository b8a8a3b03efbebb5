//! The pixels of a picture as slices, and pictures of pixels.

use std::sync::Arc;

use image::RgbImage;

/// The bytes of the picture, `[height, width, 3]`; a buffer may be longer than its picture.
pub(super) fn bytes(picture: &RgbImage) -> &[u8] {
    &picture.as_raw()[..picture.width() as usize * picture.height() as usize * 3]
}

/// The pixels of the picture, `[height, width]`.
pub(super) fn pixels(picture: &RgbImage) -> &[[u8; 3]] {
    bytes(picture).as_chunks().0
}

/// The picture of these bytes, `[height, width, 3]`.
pub(super) fn picture(width: u32, height: u32, bytes: Vec<u8>) -> Arc<RgbImage> {
    Arc::new(RgbImage::from_raw(width, height, bytes).expect("three bytes a pixel"))
}
