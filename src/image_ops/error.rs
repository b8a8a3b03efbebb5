//! What cannot be done to a picture, and the checks of sizes, boxes and numbers.

use image::RgbImage;
use thiserror::Error;

use crate::prompt::image::{PIXELS_MAX, SIDE_MAX};

/// What cannot be done to a picture.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ImageOpError {
    /// The picture has no pixels.
    #[error("the picture is {width}x{height} pixels; give one with at least 1 a side")]
    Empty {
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
    },
    /// A box is empty, the wrong way round, or sticks out of the picture.
    #[error(
        "the box {area:?} is not a part of the picture of {width}x{height} pixels; give [left, top, right, bottom] with 0 <= left < right <= \
         {width} and 0 <= top < bottom <= {height}"
    )]
    Outside {
        /// Left, top, right, bottom in pixels.
        area: [u32; 4],
        /// Width of the picture in pixels.
        width: u32,
        /// Height of the picture in pixels.
        height: u32,
    },
    /// The result would be empty or too large.
    #[error(
        "a picture of {width}x{height} pixels cannot be made; give 1 to {SIDE_MAX} a side and at most {PIXELS_MAX} in all"
    )]
    Size {
        /// Its width in pixels.
        width: u64,
        /// Its height in pixels.
        height: u64,
    },
    /// A number that means nothing.
    #[error("the {name} is {value}; give {wanted}")]
    Number {
        /// What it is for.
        name: &'static str,
        /// The number.
        value: f64,
        /// Which numbers mean something.
        wanted: &'static str,
    },
}

/// Checks that there are pixels.
pub(super) fn check_not_empty(picture: &RgbImage) -> Result<(), ImageOpError> {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 { Err(ImageOpError::Empty { width, height }) } else { Ok(()) }
}

/// Checks that the box (left, top, right, bottom) is a part of the picture.
pub(super) fn check_area(picture: &RgbImage, area: [u32; 4]) -> Result<(), ImageOpError> {
    let (width, height) = picture.dimensions();
    let [left, top, right, bottom] = area;
    let is_part = left < right && right <= width && top < bottom && bottom <= height;
    if is_part { Ok(()) } else { Err(ImageOpError::Outside { area, width, height }) }
}

/// Checks the size of a result.
pub(super) fn check_made(width: u64, height: u64) -> Result<(), ImageOpError> {
    let sides = 1..=u64::from(SIDE_MAX);
    let is_usable = sides.contains(&width) && sides.contains(&height) && width * height <= PIXELS_MAX;
    if is_usable { Ok(()) } else { Err(ImageOpError::Size { width, height }) }
}

/// The number in single precision, as Pillow's C takes it, if it is one there.
pub(super) fn single(name: &'static str, value: f64) -> Result<f32, ImageOpError> {
    let rounded = value as f32;
    let wanted = "a number of at most 3.4e38";
    if rounded.is_finite() { Ok(rounded) } else { Err(ImageOpError::Number { name, value, wanted }) }
}
