//! The limits of pixels that a request asks for (`mm_processor_kwargs`), which replace the checkpoint's own.

use serde::{Deserialize, Serialize};

use super::image_settings::ImageSettings;
use super::size::SizeError;

/// How a request wants all its pictures resized (`mm_processor_kwargs`). As in transformers, `min_pixels` and `max_pixels` win over `size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "an object with `min_pixels`, `max_pixels` or `size`")]
pub struct PixelLimits {
    /// Smaller pictures are enlarged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_pixels: Option<u64>,
    /// Larger pictures are reduced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<u64>,
    /// Both under their names in transformers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Edges>,
}

/// `size` of transformers' Qwen2-VL image processor: areas in pixels, whatever they are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "an object with `shortest_edge` and `longest_edge`")]
pub struct Edges {
    /// Smallest area, as `min_pixels`; that of the checkpoint where neither is given.
    pub shortest_edge: Option<u64>,
    /// Largest area, as `max_pixels`; that of the checkpoint where neither is given.
    pub longest_edge: Option<u64>,
}

impl PixelLimits {
    /// The settings with these limits in place of their own; none may be above `most` pixels.
    ///
    /// # Errors
    /// When a limit is out of range, or they contradict each other.
    pub fn apply(&self, settings: &ImageSettings, most: u64) -> Result<ImageSettings, SizeError> {
        let check = |key: &str, limit: Option<u64>| match limit {
            Some(pixels) if !(1..=most).contains(&pixels) => {
                Err(SizeError::new(key, format!("is {pixels}; it must be between 1 and {most}")))
            }
            limit => Ok(limit),
        };
        let edges = self.size.unwrap_or_default();
        let (shortest, longest) =
            (check("size.shortest_edge", edges.shortest_edge)?, check("size.longest_edge", edges.longest_edge)?);
        let least = check("min_pixels", self.min_pixels)?.or(shortest).unwrap_or(settings.min_pixels);
        let most = check("max_pixels", self.max_pixels)?.or(longest).unwrap_or(settings.max_pixels);
        if least > most {
            let key = if self.min_pixels.is_some() || self.max_pixels.is_some() { "min_pixels" } else { "size" };
            return Err(SizeError::new(
                key,
                format!("leaves min_pixels {least} above max_pixels {most}; give both in order"),
            ));
        }
        Ok(ImageSettings { min_pixels: least, max_pixels: most, ..settings.clone() })
    }
}
