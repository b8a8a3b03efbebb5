//! Shrinking into a given size, the aspect kept.

use std::sync::Arc;

use image::RgbImage;

use super::buffer;
use super::error::{ImageOpError, check_made, check_not_empty};
use super::resize::{Filter, resize};
use crate::prompt::resize_part;

/// By how much, at least, the filter shrinks after whole pixels were averaged: Pillow's `reducing_gap`.
const REDUCING_GAP: f64 = 2.0;

/// The picture, its aspect kept, no larger than a size in pixels, as `Image.thumbnail` does with its `reducing_gap` of 2: boxes of whole pixels are
/// averaged first (`Reduce.c`), then the filter resizes. A picture that fits is not copied. (Of a JPEG that is still a file, Pillow would have the
/// decoder shrink it first; here pictures are decoded.)
///
/// # Errors
/// When the picture is empty, or a side of the size is zero.
pub fn thumbnail(
    picture: &Arc<RgbImage>,
    most_width: u32,
    most_height: u32,
    filter: Filter,
) -> Result<Arc<RgbImage>, ImageOpError> {
    check_not_empty(picture)?;
    if most_width == 0 || most_height == 0 {
        return Err(ImageOpError::Size { width: most_width.into(), height: most_height.into() });
    }
    let (width, height) = picture.dimensions();
    let (new_width, new_height) = fitted((width, height), (most_width, most_height));
    let (across, down) = (factor(width, new_width), factor(height, new_height));
    let Some(weights) = filter.weights().filter(|_| across > 1 || down > 1) else {
        return resize(picture, new_width, new_height, filter);
    };
    check_made(new_width.into(), new_height.into())?;
    let reduced = reduce(buffer::pixels(picture), width as usize, (across, down));
    let size = ((height as usize).div_ceil(down), (width as usize).div_ceil(across));
    let part = ((f64::from(height) / down as f64) as f32, (f64::from(width) / across as f64) as f32);
    let resized = resize_part(&reduced, size, part, (new_height as usize, new_width as usize), weights);
    Ok(buffer::picture(new_width, new_height, resized))
}

/// The size (width, height) at which a picture fits: Pillow rounds the side that follows from the other to the better aspect.
fn fitted((width, height): (u32, u32), (most_width, most_height): (u32, u32)) -> (u32, u32) {
    if most_width >= width && most_height >= height {
        return (width, height);
    }
    let aspect = f64::from(width) / f64::from(height);
    let (wide, high) = (f64::from(most_width), f64::from(most_height));
    if wide / high >= aspect {
        (rounded(high * aspect, |width| (aspect - width / high).abs()), most_height)
    } else {
        let distance = |height: f64| if height == 0.0 { 0.0 } else { (aspect - wide / height).abs() };
        (most_width, rounded(wide / aspect, distance))
    }
}

/// The whole number beside `length` with the smaller distance, the lower of equals; at least 1.
fn rounded(length: f64, distance: impl Fn(f64) -> f64) -> u32 {
    let (below, above) = (length.floor(), length.ceil());
    let best = if distance(above) < distance(below) { above } else { below };
    (best as u32).max(1)
}

/// How many pixels of an axis are averaged to one before the filter.
fn factor(length: u32, new_length: u32) -> usize {
    ((f64::from(length) / f64::from(new_length) / REDUCING_GAP) as usize).max(1)
}

/// Means of boxes of `across` by `down` pixels; those of the last column and row may be smaller.
fn reduce(pixels: &[[u8; 3]], width: usize, (across, down): (usize, usize)) -> Vec<u8> {
    let mut reduced = Vec::new();
    for band in pixels.chunks(width * down) {
        let mut sums = vec![[0u64; 3]; width.div_ceil(across)];
        for row in band.chunks_exact(width) {
            for (sums, part) in sums.iter_mut().zip(row.chunks(across)) {
                for pixel in part {
                    *sums = std::array::from_fn(|channel| sums[channel] + u64::from(pixel[channel]));
                }
            }
        }
        let rows = band.len() / width;
        let areas = (0..width).step_by(across).map(|left| rows * across.min(width - left));
        reduced.extend(sums.iter().zip(areas).flat_map(|(sums, area)| sums.map(|sum| mean(sum, area))));
    }
    reduced
}

/// The mean as Pillow has it: times a reciprocal of 24 bits that single precision gives. Above 2^24 pixels that is 0 here; Pillow's overflows.
fn mean(sum: u64, area: usize) -> u8 {
    let reciprocal = (4_294_967_296.0 / (256 * area) as f32) as u64;
    (((sum + area as u64 / 2) * reciprocal) >> 24) as u8
}
