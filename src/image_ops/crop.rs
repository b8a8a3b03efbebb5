//! Cutting out a part.

use std::sync::Arc;

use image::RgbImage;

use super::buffer;
use super::error::{ImageOpError, check_area};

/// The part of the picture in a box of left, top, right and bottom in pixels, right and bottom not included, as `Image.crop` does. The whole
/// picture is not copied.
///
/// # Errors
/// When the box is empty or does not lie within the picture.
pub fn crop(picture: &Arc<RgbImage>, area: [u32; 4]) -> Result<Arc<RgbImage>, ImageOpError> {
    check_area(picture, area)?;
    let [left, top, right, bottom] = area;
    let (width, height) = (right - left, bottom - top);
    if (width, height) == picture.dimensions() {
        return Ok(picture.clone());
    }
    let rows = buffer::bytes(picture).chunks_exact(picture.width() as usize * 3);
    let mut cut = Vec::with_capacity(width as usize * height as usize * 3);
    for row in rows.skip(top as usize).take(height as usize) {
        cut.extend_from_slice(&row[left as usize * 3..right as usize * 3]);
    }
    Ok(buffer::picture(width, height, cut))
}
