//! A made-up photograph.

use image::{Rgb, RgbImage};
use thyme_engine::ops::sample::philox_uniform;

/// A picture with smooth parts, edges and grain, as a photograph has them.
pub fn photograph(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let grain = 24.0 * philox_uniform(0, u64::from(x), u64::from(y)) - 12.0;
        let edge = if (x / 90 + y / 70).is_multiple_of(3) { 60.0 } else { 0.0 };
        let level = |base: f64| (base + edge + grain).clamp(0.0, 255.0) as u8;
        Rgb([level(f64::from(x) / 8.0), level(f64::from(y) / 6.0), level(f64::from(x + y) / 16.0)])
    })
}
