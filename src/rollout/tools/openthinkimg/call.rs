//! What the calls of all tools have in common: an image and a text.

use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::prompt::python_text;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tools::pure;

/// What the model is told of a call without an argument.
const MISSING: &str = "Missing 'param' or 'image' in the input parameters.";

/// Settings of each of the tools that work on an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenThinkImgSettings {
    /// Whether `image` says which image is meant: `img_1` is the first, and on over the task's and those that tools made. Otherwise it is the
    /// newest, whatever `image` says, as in the original's reinforcement learning.
    pub image_by_name: bool,
}

impl OpenThinkImgSettings {
    /// The image that a call of `tool` is about.
    pub(super) fn image(
        &self,
        tool: &str,
        arguments: &Value,
        images: &TrajectoryImages,
    ) -> Result<Arc<RgbImage>, String> {
        let failed = |why: String| format!("Failed to call tool {tool}: {why}");
        if !self.image_by_name {
            return pure::newest(images).map_err(failed);
        }
        let name = arguments.get("image").map(python_text).ok_or(MISSING)?;
        let known: Vec<String> = (1..=images.len()).map(|number| format!("img_{number}")).collect();
        let place = known.iter().position(|known| *known == name);
        let place =
            place.ok_or_else(|| failed(format!("there is no image {name:?}; the images are: {}", known.join(", "))))?;
        images.get(place).map_err(|missing| failed(missing.to_string()))
    }
}

/// The text of a call's `param`.
pub(super) fn param(arguments: &Value) -> Result<String, String> {
    match arguments.get("param") {
        None | Some(Value::Null) => Err(MISSING.to_owned()),
        Some(param) => Ok(python_text(param)),
    }
}

/// How a call of a tool on an image looks.
pub(super) fn schema(name: &str, description: &str, param: &str) -> Value {
    json!({"type": "function", "function": {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {
                "image": {"type": "string", "description": "The name of the image, such as img_1."},
                "param": {"type": "string", "description": param},
            },
            "required": ["image", "param"],
        },
    }})
}
