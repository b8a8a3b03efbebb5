//! How a checkpoint wants its pictures, and the size at which the model sees each: as transformers has it, or, where a message asks for one, as
//! qwen-vl-utils does.

use super::image_problem::{ASPECT_MAX, ImageProblem, aspect};
use super::size::PictureSize;

/// How a checkpoint wants its pictures (`preprocessor_config.json`).
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSettings {
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Patches a side of a merged cell, which is one token.
    pub merge_size: usize,
    /// Frames in a patch; a still picture is repeated.
    pub temporal_patch_size: usize,
    /// Smaller pictures are enlarged to about this many pixels.
    pub min_pixels: u64,
    /// Larger pictures are reduced to at most this many pixels.
    pub max_pixels: u64,
    /// Mean of each channel, on the scale 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, on the scale 0 to 1.
    pub std: [f32; 3],
}

impl Default for ImageSettings {
    /// The defaults of transformers' Qwen2-VL image processor.
    fn default() -> Self {
        ImageSettings {
            patch_size: 14,
            merge_size: 2,
            temporal_patch_size: 2,
            min_pixels: 56 * 56,
            max_pixels: 28 * 28 * 1280,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl ImageSettings {
    /// Sides are multiples of this many pixels.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// Tokens of a picture of this size, or of one turned by a quarter, where its message asks for `size`.
    ///
    /// # Errors
    /// As [`ImageSettings::resized`].
    pub fn tokens(&self, (width, height): (u32, u32), size: Option<PictureSize>) -> Result<usize, ImageProblem> {
        let (tall, wide) = self.resized((height, width), size)?;
        Ok((tall / self.factor()) * (wide / self.factor()))
    }

    /// The size, as (height, width), at which the model sees a picture of this size: as [`smart_resize`] has it, or, where its message asks for
    /// `size`, as qwen-vl-utils has it, which rounds a side to a cell at least before it looks at the limits.
    ///
    /// # Errors
    /// As [`smart_resize`]; also when the limits contradict each other.
    pub fn resized(&self, picture: (u32, u32), size: Option<PictureSize>) -> Result<(usize, usize), ImageProblem> {
        let factor = self.factor();
        let cell = (factor * factor) as u64;
        match size {
            None => smart_resize(picture, factor, self.min_pixels, self.max_pixels),
            Some(PictureSize::Sides { resized_height, resized_width }) => {
                // Limits of qwen-vl-utils.
                resize_within((resized_height, resized_width), factor, factor, 4 * cell, 16_384 * cell)
            }
            Some(PictureSize::Limits { min_pixels, max_pixels }) => {
                let (least, most) = (min_pixels.unwrap_or(self.min_pixels), max_pixels.unwrap_or(self.max_pixels));
                if least > most {
                    return Err(ImageProblem::Limits { least, most });
                }
                resize_within(picture, factor, factor, least, most)
            }
        }
    }

    /// The value that the model sees for each level of each channel: `level / 255` rounded to f32, then
    /// `(x - mean) / std` in f32, as transformers computes it.
    pub fn level_values(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let scaled = (level as f64 * (1.0 / 255.0)) as f32;
                (scaled - self.mean[channel]) / self.std[channel]
            })
        })
    }
}

/// The size, as (height, width), to which transformers resizes a picture: multiples of `factor`, about `min_pixels` to
/// `max_pixels` in all, the aspect ratio nearly kept.
///
/// # Errors
/// When a side is zero, or the aspect ratio is above [`ASPECT_MAX`].
pub fn smart_resize(
    picture: (u32, u32),
    factor: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<(usize, usize), ImageProblem> {
    resize_within(picture, factor, 0, min_pixels, max_pixels)
}

/// [`smart_resize`] with sides that are rounded to `side_min` at least.
fn resize_within(
    (height, width): (u32, u32),
    factor: usize,
    side_min: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<(usize, usize), ImageProblem> {
    if height == 0 || width == 0 {
        return Err(ImageProblem::TooSmall { width, height });
    }
    if aspect(width, height) > ASPECT_MAX {
        return Err(ImageProblem::TooNarrow { width, height });
    }
    let (tall, wide, step) = (f64::from(height), f64::from(width), factor as f64);
    let area = (u64::from(height) * u64::from(width)) as f64;
    let round = |side: f64| ((side / step).round_ties_even() as usize * factor).max(side_min);
    let (rounded_height, rounded_width) = (round(tall), round(wide));
    let rounded_area = rounded_height as u64 * rounded_width as u64;
    if rounded_area > max_pixels {
        let beta = (area / max_pixels as f64).sqrt();
        let shrink = |side: f64| ((side / beta / step).floor() as usize * factor).max(factor);
        return Ok((shrink(tall), shrink(wide)));
    }
    if rounded_area < min_pixels {
        let beta = (min_pixels as f64 / area).sqrt();
        let grow = |side: f64| (side * beta / step).ceil() as usize * factor;
        return Ok((grow(tall), grow(wide)));
    }
    if rounded_area == 0 {
        return Err(ImageProblem::TooSmall { width, height });
    }
    Ok((rounded_height, rounded_width))
}
