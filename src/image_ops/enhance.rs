//! Brightness, contrast and sharpness: the picture blended with one that has none (`ImageEnhance.py`, `Blend.c`).

use std::sync::Arc;

use image::RgbImage;

use super::buffer;
use super::error::{ImageOpError, single};
use super::greyscale::lightness;

/// Times a factor, as `ImageEnhance.Brightness` does: 0 is black, 1 the picture itself, not copied; others extrapolate.
///
/// # Errors
/// When the factor is no number in single precision.
pub fn brightness(picture: &Arc<RgbImage>, factor: f64) -> Result<Arc<RgbImage>, ImageOpError> {
    let factor = single("factor", factor)?;
    Ok(blended_with_level(picture, 0, factor))
}

/// Away from the mean lightness by a factor, as `ImageEnhance.Contrast` does: 0 is grey, 1 the picture itself, not copied; others extrapolate.
///
/// # Errors
/// When the factor is no number in single precision.
pub fn contrast(picture: &Arc<RgbImage>, factor: f64) -> Result<Arc<RgbImage>, ImageOpError> {
    let factor = single("factor", factor)?;
    let pixels = buffer::pixels(picture);
    let total: u64 = pixels.iter().map(|pixel| u64::from(lightness(*pixel))).sum();
    let mean = total as f64 / pixels.len().max(1) as f64;
    Ok(blended_with_level(picture, (mean + 0.5) as u8, factor))
}

/// Away from the smoothed picture by a factor, as `ImageEnhance.Sharpness` does: 0 is smooth, 1 the picture itself, not copied; others
/// extrapolate. Smooth is the 3x3 filter `SMOOTH` of `ImageFilter.py`, which leaves the outermost pixels as they are.
///
/// # Errors
/// When the factor is no number in single precision.
pub fn sharpness(picture: &Arc<RgbImage>, factor: f64) -> Result<Arc<RgbImage>, ImageOpError> {
    let factor = single("factor", factor)?;
    let (width, height) = picture.dimensions();
    if factor == 1.0 || width < 3 || height < 3 {
        return Ok(picture.clone());
    }
    let row_bytes = width as usize * 3;
    let old = buffer::bytes(picture);
    let mut new = old.to_vec();
    for (rows, new_row) in
        old.windows(3 * row_bytes).step_by(row_bytes).zip(new[row_bytes..].chunks_exact_mut(row_bytes))
    {
        let (above, rest) = rows.split_at(row_bytes);
        let (row, below) = rest.split_at(row_bytes);
        let neighbours = below.windows(7).zip(row.windows(7)).zip(above.windows(7));
        for (level, ((below, row), above)) in new_row[3..].iter_mut().zip(neighbours) {
            *level = blend(smooth(below, row, above), row[3], factor);
        }
    }
    Ok(buffer::picture(width, height, new))
}

/// The weighted mean of a level and its eight neighbours, in the roundings of `ImagingFilter3x3`. The windows are of 7 bytes, of which the first, the
/// middle and the last are of one channel.
fn smooth(below: &[u8], row: &[u8], above: &[u8]) -> u8 {
    const SIDE: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let sum = |levels: &[u8], middle: f32| {
        f32::from(levels[0]) * SIDE + f32::from(levels[3]) * middle + f32::from(levels[6]) * SIDE
    };
    (0.5 + sum(below, SIDE) + sum(row, MIDDLE) + sum(above, SIDE)) as u8
}

/// All levels blended with one.
fn blended_with_level(picture: &Arc<RgbImage>, from: u8, factor: f32) -> Arc<RgbImage> {
    if factor == 1.0 {
        return picture.clone();
    }
    let table: [u8; 256] = std::array::from_fn(|level| blend(from, level as u8, factor));
    let levels = buffer::bytes(picture).iter().map(|level| table[usize::from(*level)]).collect();
    buffer::picture(picture.width(), picture.height(), levels)
}

/// `from + factor * (to - from)`, cut off and clipped.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}
