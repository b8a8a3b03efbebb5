//! The chat template of a checkpoint folder: which of its files has it, and the special tokens that it may name.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::chat::{ChatError, ChatTemplate};
use super::config_files::{read_json, read_text};
use super::error::PromptError;
use crate::isolated::Isolated;

/// The first template that the folder has, compiled with the special tokens of `tokenizer_config.json`.
pub(super) fn read_template(
    folder: &Path,
    renderer: Option<&Arc<Isolated>>,
) -> Result<Option<ChatTemplate>, PromptError> {
    let config_path = folder.join("tokenizer_config.json");
    let config = read_json(&config_path)?.unwrap_or(Value::Null);
    let source = match read_text(&folder.join("chat_template.jinja"))? {
        Some(source) => Some(source),
        None => {
            let path = folder.join("chat_template.json");
            match read_json(&path)? {
                Some(json) => Some(template_text(&json["chat_template"], &path)?),
                None if config["chat_template"].is_null() => {
                    let path = folder.join("processor_config.json");
                    let json = read_json(&path)?.unwrap_or(Value::Null);
                    let template = Some(&json["chat_template"]).filter(|template| !template.is_null());
                    template.map(|template| template_text(template, &path)).transpose()?
                }
                None => Some(template_text(&config["chat_template"], &config_path)?),
            }
        }
    };
    Ok(source.map(|source| compile(source, &config, renderer)).transpose()?)
}

/// A template with the special tokens of `tokenizer_config.json`.
pub(super) fn compile(
    source: String,
    config: &Value,
    renderer: Option<&Arc<Isolated>>,
) -> Result<ChatTemplate, ChatError> {
    match renderer {
        Some(renderer) => ChatTemplate::isolated(source, special_tokens(config), renderer),
        None => ChatTemplate::compile(source, special_tokens(config)),
    }
}

/// A template as a string, or the one named `default` of several.
fn template_text(template: &Value, path: &Path) -> Result<String, PromptError> {
    let named_default = || template.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    let text = template.as_str().or_else(named_default).or_else(|| template["default"].as_str());
    text.map(str::to_owned).ok_or_else(|| PromptError::Invalid {
        path: path.to_owned(),
        reason: "chat_template is neither a string, nor several of which one is named \"default\"".to_owned(),
    })
}

/// `bos_token` and the like, given as a string or as an object with `content`.
fn special_tokens(config: &Value) -> Map<String, Value> {
    let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let text = |name: &str| config[name].as_str().or_else(|| config[name]["content"].as_str());
    names.iter().filter_map(|&name| Some((name.to_owned(), Value::from(text(name)?)))).collect()
}
