//! Rotation about the centre.

use std::sync::Arc;

use image::{Rgb, RgbImage, imageops};

use super::buffer;
use super::error::{ImageOpError, check_made, check_not_empty};

/// How to rotate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// Degrees, counter-clockwise; any finite number.
    pub angle: f64,
    /// Whether the result is large enough for the whole rotated picture, or of the picture's own size.
    pub expand: bool,
    /// The colour of what the picture does not cover.
    pub fill: Rgb<u8>,
    /// What a pixel of the result is made of.
    pub interpolation: Interpolation,
}

/// How pixels between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// `NEAREST`, Pillow's default: the pixel that the point lies in.
    Nearest,
    /// `BILINEAR`: of 2x2 pixels.
    Bilinear,
    /// `BICUBIC`: of 4x4 pixels.
    Bicubic,
}

/// The picture rotated, as `Image.rotate` does (`ImagingTransformAffine` of `Geometry.c`). Multiples of 90 degrees move whole pixels where the size
/// allows it; at multiples of 360 it is not copied.
///
/// # Errors
/// When the picture is empty, the angle is no number, or the result too large.
pub fn rotate(picture: &Arc<RgbImage>, rotation: &Rotation) -> Result<Arc<RgbImage>, ImageOpError> {
    check_not_empty(picture)?;
    let Rotation { angle: value, expand, fill, interpolation } = *rotation;
    if !value.is_finite() {
        return Err(ImageOpError::Number { name: "angle", value, wanted: "a finite number of degrees" });
    }
    let angle = value.rem_euclid(360.0);
    let (width, height) = picture.dimensions();
    let can_turn = expand || width == height;
    if angle == 0.0 {
        return Ok(picture.clone());
    } else if angle == 180.0 {
        return Ok(Arc::new(imageops::rotate180(&**picture)));
    } else if angle == 90.0 && can_turn {
        return Ok(Arc::new(imageops::rotate270(&**picture)));
    } else if angle == 270.0 && can_turn {
        return Ok(Arc::new(imageops::rotate90(&**picture)));
    }
    let (affine, (new_width, new_height)) = Affine::of_rotation(angle, picture.dimensions(), expand);
    check_made(new_width, new_height)?;
    let (new_width, new_height) = (new_width as u32, new_height as u32);
    let mut rotated = RgbImage::from_pixel(new_width, new_height, fill);
    let (new_pixels, _) = rotated.as_chunks_mut();
    let source = Source { pixels: buffer::pixels(picture), width: width as usize, height: height as usize };
    match interpolation {
        Interpolation::Nearest => source.fill_nearest(new_pixels, new_width as usize, &affine),
        Interpolation::Bilinear => source.fill_between(new_pixels, new_width as usize, &affine, Source::bilinear),
        Interpolation::Bicubic => source.fill_between(new_pixels, new_width as usize, &affine, Source::bicubic),
    }
    Ok(Arc::new(rotated))
}

/// From a point of the result to one of the picture: `x' = x[0] * x + x[1] * y + x[2]`, `y'` likewise.
struct Affine {
    x: [f64; 3],
    y: [f64; 3],
}

impl Affine {
    /// The transform, and the size (width, height) of the result.
    fn of_rotation(angle: f64, (width, height): (u32, u32), expand: bool) -> (Self, (u64, u64)) {
        let (sine, cosine) = (-angle.to_radians()).sin_cos();
        let mut affine = Affine {
            x: [to_15_decimals(cosine), to_15_decimals(sine), 0.0],
            y: [to_15_decimals(-sine), to_15_decimals(cosine), 0.0],
        };
        let (wide, high) = (f64::from(width), f64::from(height));
        let (x, y) = affine.apply(-(wide / 2.0), -(high / 2.0));
        (affine.x[2], affine.y[2]) = (x + wide / 2.0, y + high / 2.0);
        if !expand {
            return (affine, (width.into(), height.into()));
        }
        let corners = [(0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high)].map(|(x, y)| affine.apply(x, y));
        let new_wide = span(corners.map(|(x, _)| x));
        let new_high = span(corners.map(|(_, y)| y));
        (affine.x[2], affine.y[2]) = affine.apply(-(new_wide - wide) / 2.0, -(new_high - high) / 2.0);
        (affine, (new_wide as u64, new_high as u64))
    }

    fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c] = self.x;
        let [d, e, f] = self.y;
        (a * x + b * y + c, d * x + e * y + f)
    }
}

/// Rounded to 15 decimals as Python's `round` does it, by way of the decimal digits.
fn to_15_decimals(number: f64) -> f64 {
    format!("{number:.15}").parse().expect("a number that was just written")
}

/// Whole pixels from the least to the greatest.
fn span(ends: [f64; 4]) -> f64 {
    ends.into_iter().fold(f64::NEG_INFINITY, f64::max).ceil() - ends.into_iter().fold(f64::INFINITY, f64::min).floor()
}

/// The pixels of the picture, `[height, width]`.
struct Source<'a> {
    pixels: &'a [[u8; 3]],
    width: usize,
    height: usize,
}

impl Source<'_> {
    /// Fills what the picture covers with its nearest pixels, in 16-bit fixed point (`affine_fixed`). Sides of at most
    /// [`SIDE_MAX`](crate::prompt::image::SIDE_MAX) pixels do not overflow it.
    fn fill_nearest(&self, new_pixels: &mut [[u8; 3]], new_width: usize, affine: &Affine) {
        let fixed = |number: f64| (number * 65536.0 + 0.5).floor() as i32;
        let first = |[across, down, offset]: [f64; 3]| fixed(offset + across * 0.5 + down * 0.5);
        let [x_across, x_down, _] = affine.x.map(fixed);
        let [y_across, y_down, _] = affine.y.map(fixed);
        let (mut x_left, mut y_left) = (first(affine.x), first(affine.y));
        for row in new_pixels.chunks_exact_mut(new_width) {
            let (mut x, mut y) = (x_left, y_left);
            for pixel in row {
                // A negative number is a large one without its sign.
                let (column, line) = ((x >> 16) as usize, (y >> 16) as usize);
                if column < self.width && line < self.height {
                    *pixel = self.pixels[line * self.width + column];
                }
                (x, y) = (x + x_across, y + y_across);
            }
            (x_left, y_left) = (x_left + x_down, y_left + y_down);
        }
    }

    /// Fills what the picture covers, each pixel by its point (`ImagingGenericTransform`).
    fn fill_between(
        &self,
        new_pixels: &mut [[u8; 3]],
        new_width: usize,
        affine: &Affine,
        sample: impl Fn(&Self, f64, f64) -> [u8; 3],
    ) {
        for (line, row) in new_pixels.chunks_exact_mut(new_width).enumerate() {
            for (column, pixel) in row.iter_mut().enumerate() {
                let (x, y) = affine.apply(column as f64 + 0.5, line as f64 + 0.5);
                if (0.0..self.width as f64).contains(&x) && (0.0..self.height as f64).contains(&y) {
                    *pixel = sample(self, x - 0.5, y - 0.5);
                }
            }
        }
    }

    fn bilinear(&self, x: f64, y: f64) -> [u8; 3] {
        let (left, top) = (below(x), below(y));
        let rows = self.neighbours::<2>(left, top).map(|row| linear(row, x - left as f64));
        linear(rows, y - top as f64).map(|level| level as u8)
    }

    fn bicubic(&self, x: f64, y: f64) -> [u8; 3] {
        let (left, top) = (below(x), below(y));
        let rows = self.neighbours::<4>(left - 1, top - 1).map(|row| cubic(row, x - left as f64));
        cubic(rows, y - top as f64).map(|level| level as u8)
    }

    /// The levels of `SIDE` rows of `SIDE` pixels from `left` and `top` on; outside stand those of the edge.
    fn neighbours<const SIDE: usize>(&self, left: isize, top: isize) -> [[[f64; 3]; SIDE]; SIDE] {
        let clamped = |first: isize, offset: usize, length: usize| {
            (first + offset as isize).clamp(0, length as isize - 1) as usize
        };
        let columns: [usize; SIDE] = std::array::from_fn(|offset| clamped(left, offset, self.width));
        std::array::from_fn(|offset| {
            let row = &self.pixels[clamped(top, offset, self.height) * self.width..][..self.width];
            columns.map(|column| row[column].map(f64::from))
        })
    }
}

/// The whole number at or below a coordinate, which is at least -0.5. (`floor` is a call where SSE4.1 is not taken for granted.)
fn below(coordinate: f64) -> isize {
    if coordinate < 0.0 { -1 } else { coordinate as isize }
}

/// A share of the way from one pixel to the next.
fn linear([from, to]: [[f64; 3]; 2], share: f64) -> [f64; 3] {
    std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

/// The cubic through four pixels, at a share of the way from the second to the third.
fn cubic(pixels: [[f64; 3]; 4], share: f64) -> [f64; 3] {
    std::array::from_fn(|channel| {
        let [v1, v2, v3, v4] = pixels.map(|pixel| pixel[channel]);
        let p2 = -v1 + v3;
        let p3 = 2.0 * (v1 - v2) + v3 - v4;
        let p4 = -v1 + v2 - v3 + v4;
        v2 + share * (p2 + share * (p3 + share * p4))
    })
}
