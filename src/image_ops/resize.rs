//! Resizing to a given size.

use std::sync::Arc;

use image::RgbImage;

use super::buffer;
use super::error::{ImageOpError, check_made, check_not_empty};
use crate::prompt::{self, ResizeFilter};

/// A filter of Pillow's `Image.resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `NEAREST`: one pixel of the picture for each of the result.
    Nearest,
    /// `BILINEAR`.
    Bilinear,
    /// `BICUBIC`, Pillow's default.
    Bicubic,
    /// `LANCZOS`.
    Lanczos,
}

impl Filter {
    /// The filter where it weighs neighbours.
    pub(super) fn weights(self) -> Option<ResizeFilter> {
        match self {
            Self::Nearest => None,
            Self::Bilinear => Some(ResizeFilter::Bilinear),
            Self::Bicubic => Some(ResizeFilter::Bicubic),
            Self::Lanczos => Some(ResizeFilter::Lanczos),
        }
    }
}

/// The picture at a size in pixels, as `Image.resize` does (`Resample.c`; `ImagingScaleAffine` of `Geometry.c` for [`Filter::Nearest`]). At its
/// own size it is not copied.
///
/// # Errors
/// When the picture is empty, or the size is zero or too large.
pub fn resize(picture: &Arc<RgbImage>, width: u32, height: u32, filter: Filter) -> Result<Arc<RgbImage>, ImageOpError> {
    check_not_empty(picture)?;
    check_made(width.into(), height.into())?;
    if (width, height) == picture.dimensions() {
        return Ok(picture.clone());
    }
    let old = (picture.height() as usize, picture.width() as usize);
    let new = (height as usize, width as usize);
    let resized = match filter.weights() {
        Some(weights) => prompt::resize(buffer::bytes(picture), old, new, weights),
        None => nearest(buffer::pixels(picture), old, new),
    };
    Ok(buffer::picture(width, height, resized))
}

fn nearest(pixels: &[[u8; 3]], old: (usize, usize), new: (usize, usize)) -> Vec<u8> {
    let columns = sources(old.1, new.1);
    let mut resized = Vec::with_capacity(new.0 * new.1 * 3);
    for row in sources(old.0, new.0) {
        let row = &pixels[row * old.1..][..old.1];
        resized.extend(columns.iter().flat_map(|&column| row[column]));
    }
    resized
}

/// The old index of each new one. The steps are added up as Pillow does it: their rounding shows.
fn sources(old: usize, new: usize) -> Vec<usize> {
    let step = old as f64 / new as f64;
    let mut at = step * 0.5;
    let next = |_| {
        let source = (at as usize).min(old - 1);
        at += step;
        source
    };
    (0..new).map(next).collect()
}
