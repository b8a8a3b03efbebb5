//! A checkpoint's prompt side, checked against its config: files of different checkpoints in one folder would train or answer nonsense.

use std::path::Path;

use crate::model::config::{Config, VisionConfig};
use crate::prompt::{ImageSettings, Processor, PromptError};

/// Checks that the model has every token of the tokenizer, and means the same ones by the placeholders of images and videos.
///
/// # Errors
/// When it does not.
pub fn check_tokens(processor: &Processor, config: &Config, dir: &Path) -> Result<(), PromptError> {
    let (ids, vocab) = (processor.tokenizer().len(), config.vocab);
    if ids > vocab {
        return another(dir, "tokenizer.json", format!("it has {ids} tokens, config.json has a vocab_size of {vocab}"));
    }
    let special = processor.special_ids();
    for (token, id, key, expected) in [
        ("<|image_pad|>", special.image_pad, "image_token_id", config.image_pad),
        ("<|video_pad|>", special.video_pad, "video_token_id", config.video_pad),
    ] {
        if id != expected {
            let said = format!("its {token} has the id {id}, config.json says {expected} ({key})");
            return another(dir, "tokenizer.json", said);
        }
    }
    Ok(())
}

/// Checks that pictures are cut into the patches that the model reads.
///
/// # Errors
/// When they are not.
pub fn check_images(settings: &ImageSettings, config: &Config, dir: &Path) -> Result<(), PromptError> {
    let vision = tower(config, dir)?;
    let pairs = [
        ("patch_size", settings.patch_size, vision.patch),
        ("merge_size", settings.merge_size, vision.merge),
        ("temporal_patch_size", settings.temporal_patch_size, vision.frames),
    ];
    match pairs.into_iter().find(|(_, prepared, expected)| prepared != expected) {
        Some((key, prepared, expected)) => {
            another(dir, "preprocessor_config.json", format!("its {key} is {prepared}, config.json says {expected}"))
        }
        None => Ok(()),
    }
}

/// The vision tower, without which no pictures can be prepared.
///
/// # Errors
/// When the model has none.
pub fn tower<'a>(config: &'a Config, dir: &Path) -> Result<&'a VisionConfig, PromptError> {
    config.vision.as_ref().ok_or_else(|| PromptError::Invalid {
        path: dir.join("config.json"),
        reason: format!(
            "its model_type `{}` is a language model without a vision tower, which no command runs; take a checkpoint that reads pictures",
            config.family.model_type
        ),
    })
}

fn another(dir: &Path, file: &str, said: String) -> Result<(), PromptError> {
    let reason = format!("{said}; take both from the same checkpoint");
    Err(PromptError::Invalid { path: dir.join(file), reason })
}
