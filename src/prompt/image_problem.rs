//! What can be wrong with a picture, and the sizes that are accepted.

use thiserror::Error;

/// The longest side that is decoded.
pub const SIDE_MAX: u32 = 16_384;
/// The most pixels that are decoded: where Pillow, too, suspects a decompression bomb and refuses.
pub const PIXELS_MAX: u64 = 178_956_970;
/// The largest ratio of a picture's sides, as in transformers.
pub const ASPECT_MAX: f64 = 200.0;

/// A picture that cannot be used: which one, and why.
#[derive(Debug, Error)]
#[error("image {name}: {problem}")]
pub struct ImageError {
    /// The file, or the start of the data URL.
    pub name: String,
    /// What is wrong, and the remedy.
    pub problem: ImageProblem,
}

/// What can be wrong with a picture.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum ImageProblem {
    /// It could not be read or decoded.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Not one of the formats.
    #[error("is not PNG, JPEG, WebP, GIF or BMP; convert it to one of these")]
    UnknownFormat,
    /// It has no pixels.
    #[error("is {width}x{height} pixels; each side must have at least 1")]
    TooSmall {
        /// Width in pixels, of the picture or as its message asks.
        width: u32,
        /// Height in pixels, of the picture or as its message asks.
        height: u32,
    },
    /// A side or the area is too large.
    #[error(
        "is {width}x{height} pixels; at most {SIDE_MAX} a side and {PIXELS_MAX} in all are accepted: scale it down first"
    )]
    TooLarge {
        /// Width of the picture in pixels.
        width: u32,
        /// Height of the picture in pixels.
        height: u32,
    },
    /// The message asks for more pixels than it allows.
    #[error(
        "is wanted at {least} pixels or more and {most} or fewer; give min_pixels and max_pixels in order, both beside the picture"
    )]
    Limits {
        /// Smallest area in pixels (`min_pixels`).
        least: u64,
        /// Largest area in pixels (`max_pixels`).
        most: u64,
    },
    /// The sides are too unequal.
    #[error(
        "is {width}x{height} pixels, an aspect ratio of {:.1}; at most {ASPECT_MAX} is accepted: crop or pad it",
        aspect(*width, *height)
    )]
    TooNarrow {
        /// Width in pixels, of the picture or as its message asks.
        width: u32,
        /// Height in pixels, of the picture or as its message asks.
        height: u32,
    },
}

impl ImageError {
    /// A picture that could not be read.
    pub fn unreadable(name: &str, reason: &str) -> Self {
        ImageProblem::Unreadable(reason.to_owned()).of(name)
    }
}

impl ImageProblem {
    /// The problem as that of the picture of this name.
    pub(super) fn of(self, name: &str) -> ImageError {
        ImageError { name: name.to_owned(), problem: self }
    }
}

/// Whether a picture of this size is usable.
///
/// # Errors
/// When it is too small, too large or too narrow.
pub fn check_size(width: u32, height: u32) -> Result<(), ImageProblem> {
    if width == 0 || height == 0 {
        return Err(ImageProblem::TooSmall { width, height });
    }
    if width.max(height) > SIDE_MAX || u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(ImageProblem::TooLarge { width, height });
    }
    if aspect(width, height) > ASPECT_MAX {
        return Err(ImageProblem::TooNarrow { width, height });
    }
    Ok(())
}

/// The ratio of the longer side to the shorter.
pub(super) fn aspect(width: u32, height: u32) -> f64 {
    f64::from(width.max(height)) / f64::from(width.min(height))
}

/// What a damaged file is.
pub(super) fn damaged(reason: &str) -> ImageProblem {
    ImageProblem::Unreadable(format!("the data is damaged or cut off ({reason}); copy or download it again"))
}
