//! `Crop` (`crop_worker.py`).

use regex::Regex;
use serde_json::Value;

use super::call::{OpenThinkImgSettings, param, schema};
use crate::image_ops;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};
use crate::rollout::tools::boxes;
use crate::rollout::tools::pure::{Made, PureTool};

/// The tool `Crop`: the part of the image in a box of pixels, `[x1, y1, x2, y2]`. What differs: the crop ends at the picture, where the
/// original's has black margins of any width.
#[derive(Clone, Debug)]
pub struct Crop {
    settings: OpenThinkImgSettings,
    /// What a box looks like.
    form: Regex,
}

impl Crop {
    /// The name in calls.
    pub const NAME: &'static str = "Crop";

    /// The tool.
    pub fn new(settings: OpenThinkImgSettings) -> Self {
        Self { settings, form: Regex::new(r"^\[\s*([0-9,\s]+)\s*\]").expect("a pattern that compiles") }
    }
}

/// The four whole numbers of a list without its brackets.
fn corners(list: &str) -> Result<[u32; 4], String> {
    let number = |text: &str| {
        let digits = text.trim();
        let wrong = || format!("invalid literal for int() with base 10: '{text}'");
        // A larger number lies as far beside the picture as this one.
        let number = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().unwrap_or(u32::MAX));
        number.filter(|_| !digits.is_empty()).ok_or_else(wrong)
    };
    let numbers = list.split(',').map(number).collect::<Result<Vec<u32>, String>>()?;
    numbers.try_into().map_err(|numbers: Vec<u32>| format!("Invalid number of coordinates: {numbers:?}"))
}

impl PureTool for Crop {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let param = param(arguments)?;
        let image = self.settings.image(Self::NAME, arguments, images)?;
        let list = self.form.captures(&param).ok_or_else(|| format!("Parameter format mismatch: {param}"))?;
        let crop = || {
            let part = boxes::pixels(corners(&list[1])?.map(f64::from), image.dimensions())?;
            image_ops::crop(&image, part).map_err(|error| error.to_string())
        };
        let crop = crop().map_err(|why| format!("Error processing line parameters '{param}': {why}"))?;
        Ok(Made::image("Image cropped successfully.", crop))
    }
}

impl Tool for Crop {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        let corners = "The part in pixels: \"[x1, y1, x2, y2]\", its top left and its bottom right corner.";
        Some(schema(Self::NAME, "Cuts a part out of the image.", corners))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
