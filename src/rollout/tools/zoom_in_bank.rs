//! `image_zoom_in_tool` of Qwen3-VL's cookbook `think_with_images` and of Qwen-Agent (QwenLM/Qwen-Agent,
//! `qwen_agent/tools/image_zoom_in_qwen3vl.py`): a crop of any image so far, enlarged. With boxes relative to 1 it is the crop of Mini-o3.
//!
//! What differs: a crop that enlarging would take above `max_pixels` is enlarged less; a box that is empty or the wrong way round always is an
//! error; errors also say what is wrong.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::boxes::{self, Area};
use super::pure::{Made, PureTool, check_limits, fitted, whole};
use crate::image_ops;
use crate::prompt::python_text;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};

/// Least side of a box before it is enlarged, in pixels; sides of a crop are multiples of it.
const FACTOR: f64 = 32.0;

/// What the numbers of a box count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// Thousandths of the image's width and height.
    #[default]
    #[serde(rename = "relative_1000")]
    Relative1000,
    /// The image's width and height are 1.
    #[serde(rename = "relative_1")]
    Relative1,
    /// Pixels of the image as it came or as a tool made it.
    Absolute,
    /// Pixels of the image as the model saw it.
    Seen,
}

/// Settings of the tool `image_zoom_in_tool` over all images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZoomInBankSettings {
    /// What the numbers of a box count.
    pub coordinates: Coordinates,
    /// Smaller crops are enlarged to about this many pixels.
    pub min_pixels: u64,
    /// A crop has at most so many pixels.
    pub max_pixels: u64,
}

impl Default for ZoomInBankSettings {
    fn default() -> Self {
        Self { coordinates: Coordinates::default(), min_pixels: 256 * 32 * 32, max_pixels: 12_845_056 }
    }
}

/// The tool `image_zoom_in_tool` of Qwen-Agent: a crop of the image `img_idx`, counted from 0 over the task's images and those that tools made
/// since; a negative number counts from the newest back. It comes without a text.
#[derive(Clone, Debug)]
pub struct ZoomInBank {
    settings: ZoomInBankSettings,
}

impl ZoomInBank {
    /// The name in calls.
    pub const NAME: &'static str = "image_zoom_in_tool";

    /// The tool.
    ///
    /// # Errors
    /// When the limits of pixels cannot be.
    pub fn new(settings: ZoomInBankSettings) -> Result<Self, String> {
        check_limits(FACTOR, settings.min_pixels, settings.max_pixels)?;
        Ok(Self { settings })
    }
}

impl Coordinates {
    /// A box in pixels of a picture (width, height), which the model saw at another size.
    fn pixels(self, area: Area, size: (u32, u32), seen: Option<(u32, u32)>) -> Area {
        match self {
            Coordinates::Relative1000 => boxes::rescaled(area, (1000.0, 1000.0), size),
            Coordinates::Relative1 => boxes::rescaled(area, (1.0, 1.0), size),
            Coordinates::Absolute => area,
            Coordinates::Seen => {
                let (width, height) = seen.unwrap_or(size);
                boxes::rescaled(area, (f64::from(width), f64::from(height)), size)
            }
        }
    }

    /// What the model is told of a box.
    fn description(self) -> &'static str {
        match self {
            Coordinates::Relative1000 => {
                "The part to crop, as [x1, y1, x2, y2] in thousandths of the image's width and height: (x1, y1) is its top left corner, \
                 (x2, y2) its bottom right one."
            }
            Coordinates::Relative1 => {
                "The part to crop, as [x1, y1, x2, y2] with the image's width and height as 1: (x1, y1) is its top left corner, (x2, y2) its \
                 bottom right one."
            }
            Coordinates::Absolute | Coordinates::Seen => {
                "The part to crop, as [x1, y1, x2, y2] in pixels of the image: (x1, y1) is its top left corner, (x2, y2) its bottom right one."
            }
        }
    }
}

/// The box with whole pixels around it about its centre, at its aspect, with a shorter side above 32 pixels, where it is smaller and the picture
/// has room. As in the original, one that would have a side of just 32 pixels stays as it is.
fn widened(area: Area, size: (u32, u32)) -> Area {
    let (width, height) = boxes::sides(area);
    let shorter = width.min(height);
    if shorter >= FACTOR || shorter <= 0.0 {
        return area;
    }
    let ratio = FACTOR / shorter;
    let [left, top, right, bottom] = area;
    let (middle, centre) = ((left + right) / 2.0, (top + bottom) / 2.0);
    let (half_width, half_height) = ((width * ratio * 0.5).ceil(), (height * ratio * 0.5).ceil());
    let wide = [
        (middle - half_width).floor(),
        (centre - half_height).floor(),
        (middle + half_width).ceil(),
        (centre + half_height).ceil(),
    ];
    let wide = boxes::clamped(wide, size);
    let (new_width, new_height) = boxes::sides(wide);
    if new_width > FACTOR && new_height > FACTOR { wide } else { area }
}

/// The place of an image among so many.
fn place(index: i64, count: usize) -> Option<usize> {
    let from_back = index.unsigned_abs() as usize;
    if index < 0 { count.checked_sub(from_back) } else { Some(from_back).filter(|place| *place < count) }
}

impl PureTool for ZoomInBank {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let missing = ["bbox_2d", "label", "img_idx"].into_iter().find(|key| arguments.get(key).is_none());
        if let Some(key) = missing {
            return Err(format!("Error: '{key}' is a required property"));
        }
        let area = boxes::read(arguments.get("bbox_2d")).ok_or_else(|| {
            let given = python_text(&arguments["bbox_2d"]);
            format!("Error: bbox_2d is {given}; give a list of 4 numbers [x1, y1, x2, y2]")
        })?;
        let invalid = |why: String| format!("Error: Invalid input image: {why}");
        let (index, count) = (&arguments["img_idx"], images.len());
        let place = whole(index).and_then(|index| place(index, count)).ok_or_else(|| {
            let given = python_text(index);
            let last = count.saturating_sub(1);
            invalid(format!("img_idx is {given}; there are {count} images, give a whole number from 0 to {last}"))
        })?;
        let image = images.get(place).map_err(|missing| invalid(missing.to_string()))?;
        let (size, seen) = (image.dimensions(), images.seen_size(place));
        let area = widened(boxes::clamped(self.settings.coordinates.pixels(area, size, seen), size), size);
        let shown = || {
            let part = boxes::pixels(area, size)?;
            let crop = image_ops::crop(&image, part).map_err(|error| error.to_string())?;
            fitted(&crop, boxes::sides(area), FACTOR, self.settings.min_pixels, self.settings.max_pixels)
        };
        shown().map(|image| Made::image("", image)).map_err(|why| format!("Tool Execution Error {why}"))
    }
}

impl Tool for ZoomInBank {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        let corners = self.settings.coordinates.description();
        let numbers =
            json!({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": corners});
        let label = json!({"type": "string", "description": "What is in the part."});
        let index = json!({"type": "number", "description": "Which image: 0 for the first, and on over all so far."});
        Some(json!({"type": "function", "function": {
            "name": Self::NAME,
            "description": "Shows a part of an image from near: crops it by a box, which has a label, and enlarges it.",
            "parameters": {
                "type": "object",
                "properties": {"bbox_2d": numbers, "label": label, "img_idx": index},
                "required": ["bbox_2d", "label", "img_idx"],
            },
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
