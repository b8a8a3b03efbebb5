//! `image_zoom_in_tool` and `image_rotate_tool` on the task's first picture as it came: the zoom of verl's recipe of DeepEyes (volcengine/verl,
//! `verl/tools/image_zoom_in_tool.py`) and both tools of DeepEyes itself (Visual-Agent/DeepEyes, `visual_toolbox_v2.py`).
//!
//! What differs: a box that is no list of four numbers has verl's first error, whatever else it is; the originals let Python say what is wrong
//! with it. Where verl's rounding takes a box one pixel out of the picture, the crop ends at the picture and has no black margin.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::boxes::{self, Area};
use super::pure::{Made, PureTool};
use crate::image_ops::{self, Interpolation, Rotation};
use crate::prompt::python_text;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};

/// Longest aspect of a box.
const ASPECT_MAX: f64 = 100.0;
/// Least side of a crop by [`SizeRule::Verl`], in pixels.
const VERL_SIDE_MIN: f64 = 28.0;
/// What a side is longer than by [`SizeRule::DeepEyes`], in pixels.
const DEEPEYES_SIDE: f64 = 30.0;
/// What DeepEyes says of a box that it does not take.
const DEEPEYES_INVALID: &str = "Error: ZOOM IN ARGUMENTS ARE INVALID";

/// Which boxes can be cropped, and what the model is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeRule {
    /// A box with a side below 28 pixels grows about its centre, as far as the picture allows it. The text says what was cropped.
    #[default]
    Verl,
    /// Both sides are longer than 30 pixels. A crop comes without a text.
    DeepEyes,
}

/// Settings of the tool `image_zoom_in_tool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZoomInSettings {
    /// Which boxes can be cropped.
    pub size_rule: SizeRule,
    /// What the numbers of a box count.
    pub coordinates: PixelsOf,
}

/// Whose pixels the numbers of a box are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelsOf {
    /// Those of the picture as it came, as in the originals.
    #[default]
    Original,
    /// Those of the picture as the model saw it, which may be smaller or larger.
    Seen,
}

/// The tool `image_zoom_in_tool` of verl and DeepEyes: a crop of the task's first picture, whose box is in that picture's pixels.
#[derive(Clone, Debug)]
pub struct ZoomIn {
    settings: ZoomInSettings,
}

impl ZoomIn {
    /// The name in calls.
    pub const NAME: &'static str = "image_zoom_in_tool";

    /// The tool.
    pub fn new(settings: ZoomInSettings) -> Self {
        Self { settings }
    }
}

/// Why a box cannot be cropped.
enum Invalid {
    /// It is not one that the rule allows.
    Rule,
    /// It has no pixel.
    Empty(String),
}

impl SizeRule {
    /// The part of a picture (width, height) that a box of its pixels asks for: left, top, right and bottom.
    fn part(self, area: Area, size: (u32, u32)) -> Result<[u32; 4], Invalid> {
        let area = boxes::clamped(area, size);
        let is_usable = |area: Area| boxes::aspect(area) <= ASPECT_MAX;
        let shorter = |area: Area| boxes::sides(area).0.min(boxes::sides(area).1);
        if !is_usable(area) {
            return Err(Invalid::Rule);
        }
        let area = match self {
            SizeRule::DeepEyes if shorter(area) > DEEPEYES_SIDE => area,
            SizeRule::DeepEyes => return Err(Invalid::Rule),
            SizeRule::Verl => {
                let area = if shorter(area) < VERL_SIDE_MIN { boxes::grown(area, VERL_SIDE_MIN, size) } else { area };
                if !is_usable(area) || shorter(area.map(f64::floor)) < VERL_SIDE_MIN {
                    return Err(Invalid::Rule);
                }
                area
            }
        };
        boxes::pixels(area, size).map_err(Invalid::Empty)
    }
}

impl PureTool for ZoomIn {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let rule = self.settings.size_rule;
        let failed = |why: String| match rule {
            SizeRule::Verl => format!("Error processing image zoom-in: {why}"),
            SizeRule::DeepEyes => format!("Error: {why}"),
        };
        let Some((given, area)) = arguments.get("bbox_2d").and_then(|given| Some((given, boxes::read(Some(given))?)))
        else {
            return Err(match rule {
                SizeRule::Verl => "Error: bbox_2d parameter is missing or not a list of 4 numbers.".to_owned(),
                SizeRule::DeepEyes => DEEPEYES_INVALID.to_owned(),
            });
        };
        let given = python_text(given);
        let image = images.get(0).map_err(|missing| failed(missing.to_string()))?;
        let area = match (self.settings.coordinates, images.seen_size(0)) {
            (PixelsOf::Seen, Some((width, height))) => {
                boxes::rescaled(area, (f64::from(width), f64::from(height)), image.dimensions())
            }
            _ => area,
        };
        let part = rule.part(area, image.dimensions()).map_err(|invalid| match (invalid, rule) {
            (Invalid::Empty(why), _) => failed(why),
            (Invalid::Rule, SizeRule::DeepEyes) => DEEPEYES_INVALID.to_owned(),
            (Invalid::Rule, SizeRule::Verl) => format!(
                "Error: The specified bounding box {given} is invalid or results in a crop smaller than the minimum size of \
                 {VERL_SIDE_MIN}x{VERL_SIDE_MIN}."
            ),
        })?;
        let crop = image_ops::crop(&image, part).map_err(|error| failed(error.to_string()))?;
        let label = arguments.get("label").map(python_text).filter(|label| !label.is_empty());
        let text = match (rule, label) {
            (SizeRule::DeepEyes, _) => String::new(),
            (SizeRule::Verl, None) => format!("Zoomed in on the image to the region {given}."),
            (SizeRule::Verl, Some(label)) => {
                format!("Zoomed in on the image to the region {given} with label {label}.")
            }
        };
        Ok(Made::image(text, crop))
    }
}

impl Tool for ZoomIn {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        let corners = "The part to crop, as [x1, y1, x2, y2] in pixels: (x1, y1) is its top left corner, (x2, y2) its bottom right one.";
        let numbers =
            json!({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": corners});
        let label = json!({"type": "string", "description": "What is in the part (optional)."});
        Some(json!({"type": "function", "function": {
            "name": Self::NAME,
            "description": "Shows a part of the image from near: crops it by a box, which may have a label.",
            "parameters": {
                "type": "object", "properties": {"bbox_2d": numbers, "label": label}, "required": ["bbox_2d"],
            },
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}

/// The tool `image_rotate_tool` of DeepEyes: the task's first picture, turned counter-clockwise at its own size; corners that it leaves bare are
/// black. It comes without a text.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageRotate;

impl ImageRotate {
    /// The name in calls.
    pub const NAME: &'static str = "image_rotate_tool";
}

impl PureTool for ImageRotate {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let angle = arguments.get("angle");
        let angle = angle.and_then(Value::as_f64).ok_or_else(|| {
            let given = angle.map_or_else(|| "missing".to_owned(), python_text);
            format!("Error: the angle is {given}; give a number of degrees")
        })?;
        let image = images.get(0).map_err(|missing| format!("Error: {missing}"))?;
        let rotation =
            Rotation { angle, expand: false, fill: image::Rgb([0; 3]), interpolation: Interpolation::Nearest };
        let rotated = image_ops::rotate(&image, &rotation).map_err(|error| format!("Error: {error}"))?;
        Ok(Made::image("", rotated))
    }
}

impl Tool for ImageRotate {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        let angle =
            json!({"type": "integer", "description": "Degrees, counter-clockwise; a negative number turns clockwise."});
        Some(json!({"type": "function", "function": {
            "name": Self::NAME,
            "description": "Turns the image about its centre.",
            "parameters": {"type": "object", "properties": {"angle": angle}, "required": ["angle"]},
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
