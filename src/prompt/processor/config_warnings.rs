//! Warnings of what has no effect in the config files of a checkpoint's prompt side.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config_files::read_json;
use super::preprocessor_config::{PREPROCESSOR_FILE, PROCESSOR_FILE, parse_image_settings, positive};
use crate::files::open::{self as files, TOKENIZER_BYTES_MAX};
use crate::hub::keys::{PREPROCESSOR, PROCESSOR, SIZE, TOKENIZER, warnings as key_warnings};

/// The texts of the added tokens of `tokenizer.json`; none where it cannot be read.
fn own_added_tokens(folder: &Path) -> Vec<String> {
    #[derive(Deserialize)]
    struct Added {
        content: String,
    }
    #[derive(Deserialize)]
    struct File {
        added_tokens: Vec<Added>,
    }
    let bytes = files::read(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX).unwrap_or_default();
    let tokens = serde_json::from_slice(&bytes).map_or(Vec::new(), |file: File| file.added_tokens);
    tokens.into_iter().map(|token| token.content).collect()
}

/// A warning for each key of picture settings that has no effect.
fn picture_warnings(object: &Map<String, Value>, place: &str) -> Vec<String> {
    let mut found = key_warnings(&[PREPROCESSOR], object, place);
    let Some(Value::Object(size)) = object.get("size") else { return found };
    found.extend(key_warnings(&[SIZE], size, &format!("{place}size.")));
    for (key, edge) in [("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")] {
        let limits = [object.get(key), size.get(edge), size.get(key)];
        let limits: Vec<u64> = limits.into_iter().flatten().filter_map(|value| positive(value, key).ok()).collect();
        if let Some(other) = limits.iter().find(|limit| **limit != limits[0]) {
            let used = limits[0];
            found.push(format!(
                "{place}{key} and {place}size ({edge}) say {used} and {other}; {used} is used, as in transformers"
            ));
        }
    }
    found
}

/// A warning for each key without effect in the config files of the prompt side, with its file; none for files that cannot be read.
pub fn warnings(folder: &Path) -> Vec<String> {
    let object = |name: &str| match read_json(&folder.join(name)) {
        Ok(Some(Value::Object(object))) => object,
        _ => Map::new(),
    };
    let mut found = Vec::new();
    let mut say = |name: &str, messages: Vec<String>| {
        let path = folder.join(name);
        found.extend(messages.into_iter().map(|message| format!("{}: {message}", path.display())));
    };
    let (whole, own, tokenizer) = (object(PROCESSOR_FILE), object(PREPROCESSOR_FILE), object("tokenizer_config.json"));
    say(PROCESSOR_FILE, key_warnings(&[PROCESSOR], &whole, ""));
    match whole.get("image_processor") {
        Some(Value::Object(nested)) => {
            say(PROCESSOR_FILE, picture_warnings(nested, "image_processor."));
            let settings = [nested.clone(), own.clone()].map(|object| parse_image_settings(&Value::Object(object)));
            if !own.is_empty() && settings[0] != settings[1] {
                let message = "is not read beside processor_config.json, which says something else, as in transformers";
                say(PREPROCESSOR_FILE, vec![message.to_owned()]);
            }
        }
        _ => say(PREPROCESSOR_FILE, picture_warnings(&own, "")),
    }
    // Every `*_token` is read.
    let is_token = |key: &str, value: &Value| key.ends_with("_token") && (value.is_string() || value.is_object());
    let others = tokenizer.iter().filter(|(key, value)| !is_token(key, value));
    let others = others.map(|(key, value)| (key.clone(), value.clone())).collect();
    say("tokenizer_config.json", key_warnings(&[TOKENIZER], &others, ""));
    if let Some(Value::Object(declared)) = tokenizer.get("added_tokens_decoder") {
        let is_declared = |token: &str| declared.values().any(|entry| entry["content"] == token);
        let left: Vec<String> =
            object("added_tokens.json").keys().filter(|token| !is_declared(token)).cloned().collect();
        if let Some(token) = left.first() {
            let message =
                format!("{token:?} is not in added_tokens_decoder of tokenizer_config.json, which is read instead");
            say("added_tokens.json", vec![message]);
        }
        if let Some(token) = own_added_tokens(folder).into_iter().find(|token| !is_declared(token)) {
            let message = format!(
                "added_tokens_decoder lacks {token:?}, which tokenizer.json has; it keeps its id here, transformers 5 gives it another"
            );
            say("tokenizer_config.json", vec![message]);
        }
    }
    found
}
