//! How a checkpoint wants its pictures, as `processor_config.json` or `preprocessor_config.json` says it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::image_settings::ImageSettings;
use super::config_files::read_json;
use super::error::PromptError;
use crate::hub::keys::{PREPROCESSOR, SIZE, accept};

/// The older file, which only says how pictures are prepared.
pub(super) const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
/// The newer file, which may say it under `image_processor`.
pub(super) const PROCESSOR_FILE: &str = "processor_config.json";

/// How the checkpoint in `folder` wants its pictures: the `image_processor` of `processor_config.json`, else
/// `preprocessor_config.json`, as in transformers.
///
/// # Errors
/// When neither is there, or it is damaged, or says what is not built.
pub fn read_image_settings(folder: &Path) -> Result<ImageSettings, PromptError> {
    let Some((path, json)) = image_processor(folder)? else {
        return Err(PromptError::Invalid {
            path: folder.join(PREPROCESSOR_FILE),
            reason: "does not exist, and no processor_config.json has an image_processor; copy it from the checkpoint"
                .to_owned(),
        });
    };
    parse_image_settings(&json).map_err(|reason| PromptError::Invalid { path, reason })
}

/// The object that says how pictures are prepared, and its file.
fn image_processor(folder: &Path) -> Result<Option<(PathBuf, Value)>, PromptError> {
    let path = folder.join(PROCESSOR_FILE);
    if let Some(mut json) = read_json(&path)?
        && !json["image_processor"].is_null()
    {
        return Ok(Some((path, json["image_processor"].take())));
    }
    let path = folder.join(PREPROCESSOR_FILE);
    Ok(read_json(&path)?.map(|json| (path, json)))
}

/// Reads both spellings of the limits; as in transformers, `min_pixels` and `max_pixels` win over `size`.
pub(super) fn parse_image_settings(json: &Value) -> Result<ImageSettings, String> {
    let default = ImageSettings::default();
    accept(&[PREPROCESSOR], json.as_object().ok_or("image_processor is not an object")?, "")?;
    let size = &json["size"];
    match size {
        Value::Null => {}
        Value::Object(size) => accept(&[SIZE], size, "size.")?,
        other => return Err(format!("size is {other}; it must be an object with shortest_edge and longest_edge")),
    }
    let limit = |key: &str, edge: &str, default: u64| {
        let places = [(&json[key], key), (&size[edge], edge), (&size[key], key)];
        let given = places.into_iter().filter(|(value, _)| !value.is_null());
        let numbers = given.map(|(value, key)| positive(value, key)).collect::<Result<Vec<_>, _>>()?;
        Ok::<u64, String>(numbers.first().copied().unwrap_or(default))
    };
    let side = |key: &str, default: usize| match &json[key] {
        Value::Null => Ok(default),
        value => positive(value, key).map(|side| side as usize),
    };
    let settings = ImageSettings {
        patch_size: side("patch_size", default.patch_size)?,
        merge_size: side("merge_size", default.merge_size)?,
        temporal_patch_size: side("temporal_patch_size", default.temporal_patch_size)?,
        min_pixels: limit("min_pixels", "shortest_edge", default.min_pixels)?,
        max_pixels: limit("max_pixels", "longest_edge", default.max_pixels)?,
        mean: channels(&json["image_mean"], "image_mean", default.mean)?,
        std: channels(&json["image_std"], "image_std", default.std)?,
    };
    let is_deviation = |std: &f32| std.is_finite() && *std > 0.0;
    if !settings.std.iter().all(is_deviation) {
        return Err(format!("image_std is {:?}; give three numbers above 0", settings.std));
    }
    if !settings.mean.iter().all(|mean| mean.is_finite()) {
        return Err(format!("image_mean is {:?}; give three finite numbers", settings.mean));
    }
    if settings.min_pixels > settings.max_pixels {
        return Err(format!("min_pixels is {}, above max_pixels {}", settings.min_pixels, settings.max_pixels));
    }
    Ok(settings)
}

/// A positive whole number; `key` names it in errors.
pub(super) fn positive(value: &Value, key: &str) -> Result<u64, String> {
    // Some checkpoints write a whole number as a float.
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && *float > 0.0).map(|float| float as u64);
    let number = value.as_u64().or_else(float).filter(|&number| (1..=1 << 40).contains(&number));
    number.ok_or_else(|| format!("{key} is {value}; it must be a positive whole number"))
}

fn channels(value: &Value, key: &str, default: [f32; 3]) -> Result<[f32; 3], String> {
    if value.is_null() {
        return Ok(default);
    }
    let number = |number: &Value| number.as_f64().map(|number| number as f32);
    let numbers: Option<Vec<f32>> = value.as_array().and_then(|numbers| numbers.iter().map(number).collect());
    let three = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
    three.ok_or_else(|| format!("{key} is {value}; it must be a list of three numbers"))
}
