//! `crop_image_normalized` and `select_frames` of Pixel Reasoner (TIGER-AI-Lab/Pixel-Reasoner, `execute_tool` and the rollout of
//! `experience_maker.py`): crops of the numbered images, and frames of a video. Images come back at the sizes of its training.
//!
//! What differs: a number of 0 or below, which the original counts from the back, is out of range; where there is no word of the original's for
//! what is wrong with an argument, the text says it in ours.

use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::boxes;
use super::pure::{Made, PureTool, check_limits, fitted, whole};
use crate::image_ops;
use crate::prompt::python_text;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};

/// What a side of a crop is longer than, in pixels; sides as shown are multiples of it.
const FACTOR: f64 = 28.0;
/// Frames of one call.
const FRAMES_MAX: usize = 8;
/// Aspect of an image that is not shown.
const ASPECT_MAX: f64 = 200.0;

/// Settings of the tool `crop_image_normalized`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CropImageNormalizedSettings {
    /// Whether the task's pictures are the frames of a video. Then they can be cropped until a tool has made an image, and afterwards the images
    /// that tools made, from number 2 on.
    pub video: bool,
    /// How far a crop reaches beyond the box on each side, as a share of the image's width and height.
    pub padding: f64,
    /// Smaller crops are enlarged to about this many pixels.
    pub min_pixels: u64,
    /// A crop has at most so many pixels.
    pub max_pixels: u64,
}

impl Default for CropImageNormalizedSettings {
    fn default() -> Self {
        Self { video: false, padding: 0.1, min_pixels: 4 * 28 * 28, max_pixels: 1000 * 28 * 28 }
    }
}

/// Settings of the tool `select_frames`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectFramesSettings {
    /// Whether the task's pictures are the frames of a video. Of other pictures no frame can be selected. Where absent, several pictures are frames, and
    /// are numbered like other images.
    pub video: Option<bool>,
    /// Smaller frames are enlarged to about this many pixels.
    pub min_pixels: u64,
    /// A frame has at most so many pixels.
    pub max_pixels: u64,
}

impl Default for SelectFramesSettings {
    fn default() -> Self {
        Self { video: None, min_pixels: 4 * 28 * 28, max_pixels: 400 * 28 * 28 }
    }
}

/// The tool `crop_image_normalized`: a crop of the image `target_image`, counted from 1.
#[derive(Clone, Debug)]
pub struct CropImageNormalized {
    settings: CropImageNormalizedSettings,
}

impl CropImageNormalized {
    /// The name in calls.
    pub const NAME: &'static str = "crop_image_normalized";

    /// The tool.
    ///
    /// # Errors
    /// When the padding or the limits of pixels cannot be.
    pub fn new(settings: CropImageNormalizedSettings) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&settings.padding) {
            return Err(format!("padding is {}: give a number from 0 to 1", settings.padding));
        }
        check_limits(FACTOR, settings.min_pixels, settings.max_pixels)?;
        Ok(Self { settings })
    }

    /// The place of an image among all.
    fn place(&self, target: &Value, images: &TrajectoryImages) -> Result<usize, String> {
        let (frames, count) = (images.task_images(), images.len());
        // The place of number 1, the numbers there are, and what the original says of others.
        let given = python_text(target);
        let (start, numbers, range) = match self.settings.video {
            false => (0, 1..=count, format!("an image within [1,{count}]")),
            true if count == frames => {
                let range = format!(
                    "an image **from** the video within [1,{count}], but the current argument `target_image={given}`."
                );
                (0, 1..=count, range)
            }
            true => {
                let last = count - frames + 1;
                let range =
                    format!("an image within range [2,{last}], but the current argument `target_image={given}`.");
                (frames - 1, 2..=last, range)
            }
        };
        let number = whole(target).and_then(|number| usize::try_from(number).ok());
        number.filter(|number| numbers.contains(number)).map(|number| start + number - 1).ok_or_else(|| {
            format!(
                "Execution Error: Incorrect `target_image` argument in `crop_image_normalized` operation. You can only pick {range}"
            )
        })
    }

    /// A padded crop of the box.
    fn crop(&self, area: boxes::Area, image: &Arc<RgbImage>) -> Result<Arc<RgbImage>, String> {
        let size = image.dimensions();
        let (wide, high) = (f64::from(size.0), f64::from(size.1));
        let is_relative = area.iter().all(|number| *number < 1.0);
        let relative = |number: f64, side: f64| if is_relative { number } else { number / side };
        let padding = self.settings.padding;
        let within = |number: f64, side: f64| number.clamp(0.0, 1.0) * side;
        let [left, top, right, bottom] = area;
        let padded = [
            within(relative(left, wide) - padding, wide),
            within(relative(top, high) - padding, high),
            within(relative(right, wide) + padding, wide),
            within(relative(bottom, high) + padding, high),
        ];
        let part = boxes::rounded(padded, size)?;
        let (width, height) = (part[2] - part[0], part[3] - part[1]);
        if f64::from(width.min(height)) <= FACTOR {
            return Err(format!("Cropped image is too small: {width}x{height}"));
        }
        image_ops::crop(image, part).map_err(|error| error.to_string())
    }
}

/// An image at the size at which training shows it.
fn shown(image: &Arc<RgbImage>, min_pixels: u64, max_pixels: u64) -> Result<Arc<RgbImage>, String> {
    let sides = (f64::from(image.width()), f64::from(image.height()));
    let aspect = boxes::aspect([0.0, 0.0, sides.0, sides.1]);
    if aspect > ASPECT_MAX {
        return Err(format!("absolute aspect ratio must be smaller than {ASPECT_MAX}, got {aspect}"));
    }
    fitted(image, sides, FACTOR, min_pixels, max_pixels)
}

/// What the model is told of an error.
fn failed(why: String) -> String {
    format!("\nExecution error:\n{why}\n")
}

/// An argument that must be there.
fn required<'a>(arguments: &'a Value, key: &str, wanted: &str) -> Result<&'a Value, String> {
    arguments.get(key).ok_or_else(|| format!("Execution Error: `{key}` is missing; give {wanted}."))
}

impl PureTool for CropImageNormalized {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let crop = || {
            let target = required(arguments, "target_image", "the number of an image, from 1 on")?;
            let place = self.place(target, images)?;
            let wanted = "a list of 4 numbers [x1, y1, x2, y2]";
            let given = required(arguments, "bbox_2d", wanted)?;
            let area = boxes::read(Some(given))
                .ok_or_else(|| format!("Execution Error: `bbox_2d` is {}; give {wanted}.", python_text(given)))?;
            let image = images.get(place).map_err(|missing| format!("Execution Error: {missing}"))?;
            shown(&self.crop(area, &image)?, self.settings.min_pixels, self.settings.max_pixels)
        };
        let crop = crop().map_err(failed)?;
        let (width, height) = crop.dimensions();
        Ok(Made::image(format!("\nHere is the cropped image (Image Size: {width}x{height}):"), crop))
    }
}

impl Tool for CropImageNormalized {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        let corners = "The part to enlarge, as [x1, y1, x2, y2] with values within [0.0,1.0]: the image's width and height are 1.";
        let numbers = json!({"type": "array", "description": corners, "items": {"type": "number"}});
        let target = "The number of the image to crop, from 1 to the number of images. The original image is number 1.";
        let target = json!({"type": "number", "description": target});
        Some(json!({"type": "function", "function": {
            "name": Self::NAME,
            "description": "Enlarges the part of an image within a box. It helps where an object or a text is too small to be seen.",
            "parameters": {
                "type": "object",
                "properties": {"bbox_2d": numbers, "target_image": target},
                "required": ["bbox_2d", "target_image"],
            },
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}

/// The tool `select_frames`: at most 8 of the task's pictures, counted from 1, as the frames of a video. Its text gives them the numbers by which
/// `crop_image_normalized` takes them; the original's are less by 1.
#[derive(Clone, Debug)]
pub struct SelectFrames {
    settings: SelectFramesSettings,
}

impl SelectFrames {
    /// The name in calls.
    pub const NAME: &'static str = "select_frames";

    /// The tool.
    ///
    /// # Errors
    /// When the limits of pixels cannot be.
    pub fn new(settings: SelectFramesSettings) -> Result<Self, String> {
        check_limits(FACTOR, settings.min_pixels, settings.max_pixels)?;
        Ok(Self { settings })
    }

    fn select(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Vec<Arc<RgbImage>>, String> {
        if !self.settings.video.unwrap_or(images.task_images() > 1) {
            return Err(
                "Execution Error: You attempted to `select_frames` from **image** not **video**. You should use \
                 `crop_image_normalized` instead for inspecting **image**."
                    .to_owned(),
            );
        }
        let wanted = "a list of whole numbers";
        let given = required(arguments, "target_frames", wanted)?;
        let numbers: Option<Vec<i64>> = given.as_array().and_then(|list| list.iter().map(whole).collect());
        let numbers = numbers
            .ok_or_else(|| format!("Execution Error: `target_frames` is {}; give {wanted}.", python_text(given)))?;
        if numbers.len() > FRAMES_MAX {
            return Err(format!(
                "Execution Error: You have selected {} frames in total. Think again which frames you need to check in details (no more \
                 than {FRAMES_MAX} frames)",
                numbers.len()
            ));
        }
        let count = images.task_images();
        let place = |number: i64| usize::try_from(number).ok().filter(|number| (1..=count).contains(number));
        let places: Option<Vec<usize>> = numbers.into_iter().map(place).collect();
        let Some(places) = places.filter(|places| !places.is_empty()) else {
            return Err(format!(
                "Execution Error: There are {count} frames numbered in range [1,{count}]. Your selection `target_frames={}` is out of range.",
                python_text(given)
            ));
        };
        let frame = |number: usize| {
            let frame = images.get(number - 1).map_err(|missing| format!("Execution Error: {missing}"))?;
            shown(&frame, self.settings.min_pixels, self.settings.max_pixels)
        };
        places.into_iter().map(frame).collect()
    }
}

impl PureTool for SelectFrames {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let frames = self.select(arguments, images).map_err(failed)?;
        let (width, height) = frames[0].dimensions();
        let first = match self.settings.video {
            Some(true) => images.len() - images.task_images() + 2,
            _ => images.len() + 1,
        };
        let last = first + frames.len() - 1;
        let text =
            format!("\nHere are the selected frames (Frame Size: {width}x{height}, Numbered {first} to {last}):");
        Ok(Made { text, images: frames })
    }
}

impl Tool for SelectFrames {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        let item = json!({"type": "integer", "description": "A frame's number, from 1 to 16."});
        let frames = "Numbers of the frames to show, at most 8 in all.";
        let frames = json!({"type": "array", "description": frames, "items": item});
        Some(json!({"type": "function", "function": {
            "name": Self::NAME,
            "description": "Shows some frames of the video.",
            "parameters": {
                "type": "object", "properties": {"target_frames": frames}, "required": ["target_frames"],
            },
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
