//! The size that a message asks for: the keys of qwen-vl-utils beside a picture, which replace the limits of the checkpoint and of the request.

use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::image_problem::{PIXELS_MAX, SIDE_MAX};

/// A size that cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{key}` {problem}")]
pub struct SizeError {
    /// The key, such as `min_pixels` or `size.shortest_edge`.
    pub key: String,
    /// What is wrong with it, and the remedy.
    pub problem: String,
}

impl SizeError {
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> SizeError {
        SizeError { key: key.into(), problem: problem.into() }
    }
}

/// The size that a message asks for one of its pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PictureSize {
    /// `resized_height` and `resized_width`, each rounded to a multiple of a cell's side.
    Sides {
        /// Height before rounding, in pixels.
        resized_height: u32,
        /// Width before rounding, in pixels.
        resized_width: u32,
    },
    /// Limits of its pixels; of the model where one is absent.
    Limits {
        /// A smaller picture is enlarged.
        min_pixels: Option<u64>,
        /// A larger picture is reduced.
        max_pixels: Option<u64>,
    },
}

/// Keys of a picture that name it, and those that have no effect here.
const OTHER_KEYS: [&str; 10] =
    ["type", "text", "image", "image_url", "url", "path", "detail", "uuid", "cache_control", "index"];

impl PictureSize {
    /// What a picture's part of a message says: the keys beside it, and those within its `image_url` or `image`. Keys that are null say nothing.
    ///
    /// # Errors
    /// When a key is not known, its value is out of range, or keys contradict each other.
    pub fn of_part(part: &Value) -> Result<Option<PictureSize>, SizeError> {
        let mut asked = RequestedSize::default();
        asked.read(part, "")?;
        for key in ["image_url", "image"] {
            asked.read(&part[key], key)?;
        }
        asked.size()
    }
}

/// The keys of a part.
#[derive(Default)]
struct RequestedSize {
    values: Map<String, Value>,
}

impl RequestedSize {
    /// Adds an object's keys, if it is one; it stands under the key `place`.
    fn read(&mut self, object: &Value, place: &str) -> Result<(), SizeError> {
        const KEYS: [&str; 4] = ["min_pixels", "max_pixels", "resized_height", "resized_width"];
        let given = object.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        for (key, value) in given.filter(|(key, _)| !OTHER_KEYS.contains(&key.as_str())) {
            let path = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            if !KEYS.contains(&key.as_str()) {
                let known = KEYS.join(", ");
                return Err(SizeError::new(
                    path,
                    format!("is not known beside a picture; known are {known}: leave it out"),
                ));
            }
            if self.values.insert(key.clone(), value.clone()).is_some_and(|other| other != *value) {
                return Err(SizeError::new(path, "is given twice with different values; give it once"));
            }
        }
        Ok(())
    }

    fn size(&self) -> Result<Option<PictureSize>, SizeError> {
        let [min_pixels, max_pixels] = [self.number("min_pixels", PIXELS_MAX)?, self.number("max_pixels", PIXELS_MAX)?];
        let side = |key| Ok(self.number(key, SIDE_MAX.into())?.map(|side| side as u32));
        let limits = min_pixels.or(max_pixels);
        match (side("resized_height")?, side("resized_width")?) {
            (None, None) => Ok(limits.map(|_| PictureSize::Limits { min_pixels, max_pixels })),
            (Some(_), Some(_)) if limits.is_some() => {
                let key = if min_pixels.is_some() { "min_pixels" } else { "max_pixels" };
                Err(SizeError::new(key, "has no effect beside resized_height and resized_width; leave it or them out"))
            }
            (Some(resized_height), Some(resized_width)) => {
                Ok(Some(PictureSize::Sides { resized_height, resized_width }))
            }
            (height, _) => {
                let (given, missing) = match height {
                    Some(_) => ("resized_height", "resized_width"),
                    None => ("resized_width", "resized_height"),
                };
                Err(SizeError::new(given, format!("has no effect without {missing}; give both")))
            }
        }
    }

    /// A whole number, which some write as a float.
    fn number(&self, key: &str, most: u64) -> Result<Option<u64>, SizeError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let whole = |float: f64| (float.fract() == 0.0 && float >= 0.0).then_some(float as u64);
        let number =
            value.as_u64().or_else(|| value.as_f64().and_then(whole)).filter(|number| (1..=most).contains(number));
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(SizeError::new(key, format!("is {value}; it must be a whole number between 1 and {most}"))),
        }
    }
}
