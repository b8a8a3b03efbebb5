//! Gaussian blur by three box blurs each way (`BoxBlur.c`).

use std::sync::Arc;

use image::RgbImage;

use super::buffer;
use super::error::{ImageOpError, single};

/// Box blurs that stand for a Gaussian one.
const PASSES: usize = 3;

/// The picture blurred with a radius (the Gaussian's standard deviation) in pixels, as `ImageFilter.GaussianBlur` does. Radius 0 does not copy it.
///
/// # Errors
/// When the radius is negative or [`i32::MAX`] and more.
pub fn gaussian_blur(picture: &Arc<RgbImage>, radius: f64) -> Result<Arc<RgbImage>, ImageOpError> {
    let wanted = "0 to 2147483520 pixels";
    let single = single("radius", radius)?;
    if !(0.0..i32::MAX as f32).contains(&single) {
        return Err(ImageOpError::Number { name: "radius", value: radius, wanted });
    }
    let radius = box_radius(single);
    if radius == 0.0 || buffer::bytes(picture).is_empty() {
        return Ok(picture.clone());
    }
    let kernel = Kernel::new(radius);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let columns = transposed(buffer::bytes(picture), width);
    let rows = transposed(&blurred(columns, height * 3, &kernel), height);
    Ok(buffer::picture(picture.width(), picture.height(), blurred(rows, width * 3, &kernel)))
}

/// The radius of boxes that [`PASSES`] times are as wide as a Gaussian of this standard deviation, in Pillow's roundings (Gwosdek et al., "Theoretical
/// Foundations of Gaussian Convolution by Extended Box Filtering", 2011).
fn box_radius(radius: f32) -> f32 {
    let variance = radius * radius / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    whole + fraction / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)))
}

/// A box of which the two outermost samples count in part. Weights are of 24 bits.
struct Kernel {
    /// Samples to each side that count in full.
    radius: usize,
    weight: u32,
    /// Of the two samples beyond the radius.
    far_weight: u32,
}

impl Kernel {
    fn new(radius: f32) -> Self {
        const ONE: u32 = 1 << 24;
        let weight = (ONE as f32 / (radius * 2.0 + 1.0)) as u32;
        let radius = radius as u32;
        let samples = radius.wrapping_mul(2).wrapping_add(1);
        let far_weight = ONE.wrapping_sub(samples.wrapping_mul(weight)) / 2;
        Kernel { radius: radius as usize, weight, far_weight }
    }
}

/// Interleaved RGB `[height, width, 3]` to `[width, height, 3]`.
fn transposed(bytes: &[u8], width: usize) -> Vec<u8> {
    /// Rows that are written together: their lines of cache serve several columns.
    const BAND: usize = 16;
    let (pixels, _) = bytes.as_chunks::<3>();
    let height = pixels.len() / width;
    let mut turned = vec![0; bytes.len()];
    let (turned_pixels, _) = turned.as_chunks_mut::<3>();
    for (band, rows) in pixels.chunks(BAND * width).enumerate() {
        for column in 0..width {
            let line = &mut turned_pixels[column * height + band * BAND..];
            for (pixel, row) in line.iter_mut().zip(rows.chunks_exact(width)) {
                *pixel = row[column];
            }
        }
    }
    turned
}

/// Blurs the columns of `[rows, row_bytes]` by [`PASSES`] boxes. Beyond the edges stand the levels of the edges.
fn blurred(mut levels: Vec<u8>, row_bytes: usize, kernel: &Kernel) -> Vec<u8> {
    let mut next = vec![0; levels.len()];
    for _ in 0..PASSES {
        box_blur(&levels, &mut next, row_bytes, kernel);
        std::mem::swap(&mut levels, &mut next);
    }
    levels
}

/// One box. Pillow adds 32-bit numbers that wrap where the radius is huge, and so does this.
fn box_blur(old: &[u8], new: &mut [u8], row_bytes: usize, kernel: &Kernel) {
    let last = old.len() / row_bytes - 1;
    let row = |index: usize| &old[index.min(last) * row_bytes..][..row_bytes];
    // Sums of the box about the row before the first.
    let beyond = kernel.radius.saturating_sub(last);
    let mut sums: Vec<u32> =
        row(0).iter().map(|level| u32::from(*level).wrapping_mul(kernel.radius as u32 + 1)).collect();
    let add = |sums: &mut [u32], levels: &[u8], times: usize| {
        for (sum, level) in sums.iter_mut().zip(levels) {
            *sum = sum.wrapping_add(u32::from(*level).wrapping_mul(times as u32));
        }
    };
    (0..kernel.radius.min(last)).for_each(|index| add(&mut sums, row(index), 1));
    add(&mut sums, row(last), beyond);
    for (index, new_row) in new.chunks_exact_mut(row_bytes).enumerate() {
        let (before, after) = (row(index.saturating_sub(kernel.radius + 1)), row(index + kernel.radius));
        let edges = before.iter().zip(after).zip(row(index + kernel.radius + 1));
        for ((level, sum), ((before, after), beyond)) in new_row.iter_mut().zip(&mut sums).zip(edges) {
            let (before, after, beyond) = (u32::from(*before), u32::from(*after), u32::from(*beyond));
            *sum = sum.wrapping_add(after).wrapping_sub(before);
            let total = sum.wrapping_mul(kernel.weight).wrapping_add((before + beyond).wrapping_mul(kernel.far_weight));
            *level = (total.wrapping_add(1 << 23) >> 24) as u8;
        }
    }
}
