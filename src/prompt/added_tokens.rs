//! Tokens that are declared beside `tokenizer.json`, in the order in which transformers adds those that it lacks.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::hub::keys::shown;

/// Keys that end in `_token` and name no token.
const FLAGS: [&str; 2] = ["add_bos_token", "add_eos_token"];
/// Keys of several tokens.
const LISTS: [&str; 3] = ["model_specific_special_tokens", "additional_special_tokens", "extra_special_tokens"];

/// What `tokenizer_config.json`, or without it `added_tokens.json`, declares.
#[derive(Debug)]
pub(super) struct Declared {
    /// The file that gives tokens their ids.
    pub file: &'static str,
    /// Tokens by id.
    pub tokens: BTreeMap<u32, AddedToken>,
    /// Special tokens without an id.
    pub special: Vec<String>,
}

impl Declared {
    /// # Errors
    /// When a declaration has no id or no text.
    pub fn new(config: Option<&Value>, added: Option<&Value>) -> Result<Declared, String> {
        let nothing = Map::new();
        let config = config.and_then(Value::as_object).unwrap_or(&nothing);
        let special = special(config)?;
        let decoder = config.get("added_tokens_decoder").filter(|value| !value.is_null());
        let (file, tokens) = match (decoder, added.and_then(Value::as_object)) {
            (Some(Value::Object(decoder)), _) => {
                ("tokenizer_config.json", decoder.iter().map(|(id, entry)| by_id(id, entry)).collect())
            }
            (Some(other), _) => return Err(wrong("added_tokens_decoder", other, "an object of ids")),
            (None, Some(added)) => {
                ("added_tokens.json", added.iter().map(|(content, id)| by_text(content, id, &special)).collect())
            }
            (None, None) => ("tokenizer_config.json", Ok(BTreeMap::new())),
        };
        let tokens: Result<_, String> = tokens;
        Ok(Declared { file, tokens: tokens?, special })
    }
}

/// `bos_token` and the like, then tokens of lists and of named ones.
fn special(config: &Map<String, Value>) -> Result<Vec<String>, String> {
    let text = |key: &str, value: &Value| {
        let text = value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
        text.ok_or_else(|| wrong(key, value, "a token, or an object with `content`"))
    };
    let present = || config.iter().filter(|(_, value)| !value.is_null());
    let named = present().filter(|(key, _)| key.ends_with("_token") && !FLAGS.contains(&key.as_str()));
    let mut tokens = named.map(|(key, value)| text(key, value)).collect::<Result<Vec<_>, _>>()?;
    for (key, value) in present().filter(|(key, _)| LISTS.contains(&key.as_str())) {
        match value {
            Value::Array(values) => {
                tokens.extend(values.iter().map(|value| text(key, value)).collect::<Result<Vec<_>, _>>()?);
            }
            Value::Object(values) => {
                tokens.extend(values.values().map(|value| text(key, value)).collect::<Result<Vec<_>, _>>()?);
            }
            other => return Err(wrong(key, other, "a list of tokens")),
        }
    }
    Ok(tokens)
}

fn wrong(key: &str, value: &Value, expected: &str) -> String {
    format!("{key} is {}; it must be {expected}", shown(value))
}

/// An entry of `added_tokens_decoder`.
fn by_id(id: &str, entry: &Value) -> Result<(u32, AddedToken), String> {
    let flag = |key: &str| entry[key].as_bool().unwrap_or(false);
    let wrong = || format!("added_tokens_decoder has {id:?}: {entry}; give an id, and an object with `content`");
    let (number, content) = (id.parse().map_err(|_| wrong())?, entry["content"].as_str().ok_or_else(wrong)?);
    let special = flag("special");
    let token = AddedToken::from(content, special).lstrip(flag("lstrip")).rstrip(flag("rstrip"));
    let normalized = entry["normalized"].as_bool().unwrap_or(!special);
    Ok((number, token.single_word(flag("single_word")).normalized(normalized)))
}

/// An entry of `added_tokens.json`.
fn by_text(content: &str, id: &Value, special: &[String]) -> Result<(u32, AddedToken), String> {
    let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
    let number = number.ok_or_else(|| format!("{content:?} has the id {id}; give a whole number"))?;
    Ok((number, AddedToken::from(content, special.iter().any(|token| token == content))))
}
