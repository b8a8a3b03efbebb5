//! Tools that edit the trajectory's last image, so that edits add up: the eleven of verifiers' vision environment (Philemonade/verifiers,
//! `vision_env.py`). They work on the decoded pixels, in this process, with Pillow's results ([`crate::image_ops`]). What differs from
//! the original: a crop is cut to the picture where the original pads it with black, the edited image is shown to the model, and
//! `get_image_info` counts the bytes of the pixels, not those of a PNG.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::pure::{Made, PIXELS_MAX, PureTool, newest};
use crate::image_ops::{self, Filter, ImageOpError, Interpolation, Rotation};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};

/// A tool of [`IMAGE_EDITS`].
#[derive(Debug)]
pub struct ImageEdit {
    /// The name in recipes and calls.
    pub name: &'static str,
    description: &'static str,
    /// Its parameters as JSON schema: name, type, description, whether required.
    parameters: &'static [(&'static str, &'static str, &'static str, bool)],
    work: fn(Value, &Arc<RgbImage>) -> Result<Edited, String>,
}

/// What an edit made.
enum Edited {
    Image(Arc<RgbImage>),
    Text(String),
}

impl From<Arc<RgbImage>> for Edited {
    fn from(image: Arc<RgbImage>) -> Self {
        Edited::Image(image)
    }
}

/// The eleven tools.
pub const IMAGE_EDITS: &[ImageEdit; 11] = &[
    ImageEdit {
        name: "crop_image",
        description: "Cuts a part out of the image.",
        parameters: &[
            ("x", "integer", "Left edge in pixels.", true),
            ("y", "integer", "Top edge in pixels.", true),
            ("width", "integer", "Width in pixels.", true),
            ("height", "integer", "Height in pixels.", true),
        ],
        work: |arguments, image| crop(read(arguments)?, image),
    },
    ImageEdit {
        name: "zoom_image",
        description: "Enlarges a part of the image to the size of the whole.",
        parameters: &[
            ("zoom_factor", "number", "How many times larger, for example 2.0.", true),
            ("center_x", "integer", "Middle of the part in pixels from the left; the image's where absent.", false),
            ("center_y", "integer", "Middle of the part in pixels from the top; the image's where absent.", false),
        ],
        work: |arguments, image| zoom(&read(arguments)?, image),
    },
    ImageEdit {
        name: "rotate_image",
        description: "Rotates the image counter-clockwise; what is left bare is white.",
        parameters: &[
            ("angle", "number", "Degrees.", true),
            ("expand", "boolean", "Whether the image grows to hold all of the rotated one; true where absent.", false),
        ],
        work: |arguments, image| rotate(&read(arguments)?, image),
    },
    ImageEdit {
        name: "flip_image",
        description: "Mirrors the image.",
        parameters: &[("direction", "string", "\"horizontal\" or \"vertical\".", true)],
        work: |arguments, image| flip(&read(arguments)?, image),
    },
    ImageEdit {
        name: "adjust_brightness",
        description: "Makes the image brighter or darker.",
        parameters: &[("factor", "number", "1.0 changes nothing, more is brighter, 0 is black.", true)],
        work: |arguments, image| factor(&read(arguments)?, image, image_ops::brightness),
    },
    ImageEdit {
        name: "adjust_contrast",
        description: "Raises or lowers the contrast of the image.",
        parameters: &[("factor", "number", "1.0 changes nothing, more is stronger, 0 is grey.", true)],
        work: |arguments, image| factor(&read(arguments)?, image, image_ops::contrast),
    },
    ImageEdit {
        name: "apply_blur",
        description: "Blurs the image.",
        parameters: &[("radius", "number", "Radius of the Gaussian in pixels.", true)],
        work: |arguments, image| {
            let Radius { radius } = read(arguments)?;
            made(image_ops::gaussian_blur(image, radius))
        },
    },
    ImageEdit {
        name: "apply_sharpen",
        description: "Sharpens the image.",
        parameters: &[("factor", "number", "0 changes nothing, more is sharper; 1.0 where absent.", false)],
        work: |arguments, image| {
            let Sharpen { factor } = read(arguments)?;
            made(image_ops::sharpness(image, 1.0 + factor))
        },
    },
    ImageEdit {
        name: "convert_grayscale",
        description: "Takes the colours out of the image.",
        parameters: &[],
        work: |arguments, image| {
            let Nothing {} = read(arguments)?;
            Ok(image_ops::greyscale(image).into())
        },
    },
    ImageEdit {
        name: "resize_image",
        description: "Gives the image another size.",
        parameters: &[
            ("width", "integer", "Width in pixels.", true),
            ("height", "integer", "Height in pixels.", true),
            ("maintain_aspect", "boolean", "Shrinks into that size and keeps the aspect; true where absent.", false),
        ],
        work: |arguments, image| resize(&read(arguments)?, image),
    },
    ImageEdit {
        name: "get_image_info",
        description: "Tells the size of the image.",
        parameters: &[],
        work: |arguments, image| {
            let Nothing {} = read(arguments)?;
            let (width, height) = image.dimensions();
            let bytes = image.as_raw().len();
            let info = json!({"width": width, "height": height, "format": "PNG", "mode": "RGB", "size_bytes": bytes});
            Ok(Edited::Text(info.to_string()))
        },
    },
];

/// What the model is told of an image that was made.
const DONE: &str = "Image processed successfully.";

fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|error| error.to_string())
}

fn made(result: Result<Arc<RgbImage>, ImageOpError>) -> Result<Edited, String> {
    result.map(Edited::Image).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Factor {
    factor: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Radius {
    radius: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sharpen {
    #[serde(default = "one")]
    factor: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Zoom {
    zoom_factor: f64,
    center_x: Option<f64>,
    center_y: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    angle: f64,
    #[serde(default = "yes")]
    expand: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flip {
    direction: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    width: u32,
    height: u32,
    #[serde(default = "yes")]
    maintain_aspect: bool,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// The part that lies within the picture.
fn crop(Area { x, y, width, height }: Area, image: &Arc<RgbImage>) -> Result<Edited, String> {
    let (full_width, full_height) = image.dimensions();
    let within = |at: f64, side: u32| at.clamp(0.0, f64::from(side)) as u32;
    let area =
        [within(x, full_width), within(y, full_height), within(x + width, full_width), within(y + height, full_height)];
    if area[0] >= area[2] || area[1] >= area[3] {
        return Err(format!(
            "the part of {width}x{height} pixels at ({x}, {y}) has no pixel of the image of {full_width}x{full_height}"
        ));
    }
    made(image_ops::crop(image, area))
}

/// The part about the middle, moved into the picture, at the picture's size.
fn zoom(zoom: &Zoom, image: &Arc<RgbImage>) -> Result<Edited, String> {
    let factor = zoom.zoom_factor;
    if !(factor >= 1.0 && factor.is_finite()) {
        return Err(format!("the zoom_factor is {factor}; give a number of at least 1"));
    }
    let (width, height) = image.dimensions();
    let part = |side: u32, middle: Option<f64>| {
        let length = ((f64::from(side) / factor) as u32).max(1);
        let middle = middle.unwrap_or(f64::from(side / 2));
        let start = (middle - f64::from(length / 2)).clamp(0.0, f64::from(side - length)) as u32;
        (start, start + length)
    };
    let ((left, right), (top, bottom)) = (part(width, zoom.center_x), part(height, zoom.center_y));
    let cut = image_ops::crop(image, [left, top, right, bottom]);
    made(cut.and_then(|cut| image_ops::resize(&cut, width, height, Filter::Lanczos)))
}

/// Refuses an image of more pixels than may be made.
fn check_pixels(pixels: u64) -> Result<(), String> {
    match pixels {
        0..=PIXELS_MAX => Ok(()),
        _ => Err(format!(
            "the image would have up to {pixels} pixels; {PIXELS_MAX} are allowed, so make it smaller first"
        )),
    }
}

fn rotate(rotate: &Rotate, image: &Arc<RgbImage>) -> Result<Edited, String> {
    let (angle, expand) = (rotate.angle, rotate.expand);
    if expand {
        // The box around a rotated rectangle is largest at 45 degrees.
        let sides = u64::from(image.width()) + u64::from(image.height());
        check_pixels(sides * sides / 2)?;
    }
    let rotation = Rotation { angle, expand, fill: Rgb([255; 3]), interpolation: Interpolation::Nearest };
    made(image_ops::rotate(image, &rotation))
}

fn flip(flip: &Flip, image: &Arc<RgbImage>) -> Result<Edited, String> {
    match flip.direction.as_str() {
        "horizontal" => Ok(image_ops::flip_horizontal(image).into()),
        "vertical" => Ok(image_ops::flip_vertical(image).into()),
        other => Err(format!("the direction is {other:?}; give \"horizontal\" or \"vertical\"")),
    }
}

fn factor(
    Factor { factor }: &Factor,
    image: &Arc<RgbImage>,
    edit: fn(&Arc<RgbImage>, f64) -> Result<Arc<RgbImage>, ImageOpError>,
) -> Result<Edited, String> {
    made(edit(image, *factor))
}

fn resize(resize: &Resize, image: &Arc<RgbImage>) -> Result<Edited, String> {
    let (width, height) = (resize.width, resize.height);
    if resize.maintain_aspect {
        return made(image_ops::thumbnail(image, width, height, Filter::Lanczos));
    }
    check_pixels(u64::from(width) * u64::from(height))?;
    made(image_ops::resize(image, width, height, Filter::Lanczos))
}

impl Tool for &'static ImageEdit {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Option<Value> {
        let property = |(name, kind, description, _): &(&str, &str, &str, bool)| {
            ((*name).to_owned(), json!({"type": kind, "description": description}))
        };
        let properties: serde_json::Map<String, Value> = self.parameters.iter().map(property).collect();
        let required: Vec<&str> = self.parameters.iter().filter(|of| of.3).map(|of| of.0).collect();
        Some(json!({"type": "function", "function": {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": properties, "required": required},
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}

impl PureTool for &'static ImageEdit {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let edited = newest(images).and_then(|image| (self.work)(arguments.clone(), &image));
        match edited {
            Ok(Edited::Image(pixels)) => Ok(Made::image(DONE, pixels)),
            Ok(Edited::Text(text)) => Ok(Made { text, images: Vec::new() }),
            Err(why) => Err(format!("Error: {why}")),
        }
    }
}
