//! A line of a data file, key by key; what is wrong is named with its place, its key and the remedy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::data_error::DataError;
use super::forms::has_content;
use super::{Message, Role};
use crate::files::json::{in_json_words, in_words_of_line};
use crate::files::lines::{MESSAGES_MAX, PICTURES_MAX};
use crate::files::{is_elsewhere, local_path, object_remedy};

/// Where in a file a line stands, and what it says.
pub(super) struct Row<'a> {
    /// The data file.
    pub file: &'a Arc<Path>,
    /// Its line, from 1.
    pub line: usize,
    /// Its keys.
    pub object: Map<String, Value>,
}

impl<'a> Row<'a> {
    /// The line as an object.
    pub fn read(file: &'a Arc<Path>, line: usize, text: &[u8]) -> Result<Row<'a>, DataError> {
        let object = serde_json::from_slice(text).map_err(|error| DataError::Json {
            path: file.to_path_buf(),
            line,
            problem: in_words_of_line(&error),
            remedy: object_remedy(text),
        })?;
        let row = Row { file, line, object };
        row.refuse_sizes()?;
        Ok(row)
    }

    /// What is wrong with a key.
    pub fn wrong(&self, key: &'static str, problem: impl Into<String>, remedy: &'static str) -> DataError {
        DataError::Key { path: self.file.to_path_buf(), line: self.line, key, problem: problem.into(), remedy }
    }

    /// Refuses keys of picture sizes: the recipe sets the size for all lines alike.
    fn refuse_sizes(&self) -> Result<(), DataError> {
        let keys = ["min_pixels", "max_pixels", "resized_height", "resized_width", "mm_processor_kwargs"];
        match keys.into_iter().find(|key| self.object.get(*key).is_some_and(|value| !value.is_null())) {
            Some(key) => {
                let remedy = "set `model.min_pixels` and `model.max_pixels` in the recipe, and leave it out here";
                Err(self.wrong(key, "it has no effect in a line", remedy))
            }
            None => Ok(()),
        }
    }

    /// The list of messages under a key that is there.
    pub fn messages(&self, key: &'static str) -> Result<Vec<Message>, DataError> {
        let remedy = "it should be a list of {\"role\": \"system|user|assistant|tool\", \"content\": \"text\"}";
        let messages: Vec<Message> = serde_json::from_value(self.object[key].clone())
            .map_err(|error| self.wrong(key, format!("it {}", in_json_words(&error)), remedy))?;
        if messages.is_empty() {
            return Err(self.wrong(key, "the list is empty", remedy));
        }
        if messages.len() > MESSAGES_MAX {
            let problem = format!("there are {} messages, and at most {MESSAGES_MAX} are taken", messages.len());
            return Err(self.wrong(key, problem, "shorten the conversation"));
        }
        Ok(messages)
    }

    /// Refuses a key `system` beside a list of messages.
    pub fn refuse_system(&self) -> Result<(), DataError> {
        if self.object.get("system").is_some_and(has_content) {
            let remedy = "beside `messages` the system message is the first of them";
            return Err(self.wrong("system", "it would be left unread", remedy));
        }
        Ok(())
    }

    /// The tools that a demonstration's model knows of; those of a task are the environment's.
    pub fn tools(&self, messages: &[Message]) -> Result<Option<Value>, DataError> {
        let remedy = "it should be a list of functions in OpenAI's form; a task has none, for its environment describes the tools";
        match self.object.get("tools").filter(|tools| has_content(tools)) {
            None => Ok(None),
            Some(Value::Array(_)) if messages.last().is_none_or(|message| message.role != Role::Assistant) => {
                Err(self.wrong("tools", "it would be left unread", remedy))
            }
            Some(tools @ Value::Array(_)) => Ok(Some(tools.clone())),
            Some(other) => Err(self.wrong("tools", format!("found {}", kind_of(other)), remedy)),
        }
    }

    /// The text under an optional key.
    pub fn text(&self, key: &'static str) -> Result<Option<String>, DataError> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, format!("found {}", kind_of(other)), "it should be a string")),
        }
    }

    /// The paths under an optional key: a list of strings, or one string. `other` is what the other form calls it.
    pub fn paths(&self, key: &'static str, other: &'static str) -> Result<Vec<PathBuf>, DataError> {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let is_given = |key| self.object.get(key).is_some_and(has_content);
        if is_given(other) && !is_given(key) {
            let remedy = "a row of `messages` has `images`, one of `question` and `response` has `image`";
            return Err(self.wrong(other, format!("this row's form calls it `{key}`"), remedy));
        }
        let remedy = "it should be a list of paths, absolute or relative to the data file's folder; save embedded pictures as files";
        let path = |value: &Value| match value {
            Value::String(text) if text.starts_with("data:") || text.len() > 4096 => {
                Err(self.wrong(key, "found an embedded picture", remedy))
            }
            Value::String(text) if text.is_empty() => Err(self.wrong(key, "found an empty path", remedy)),
            Value::String(text) if is_elsewhere(text) => Err(self.wrong(
                key,
                format!("{text:?} is on the network and is not fetched"),
                "download it and give its path",
            )),
            Value::String(text) => Ok(folder.join(local_path(text))),
            Value::Object(object) if object.get("bytes").is_some_and(|bytes| !bytes.is_null()) => {
                Err(self.wrong(key, "found an embedded picture, as Hugging Face's datasets write them", remedy))
            }
            other => Err(self.wrong(key, format!("found {}", kind_of(other)), remedy)),
        };
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) if values.len() > PICTURES_MAX => {
                let problem = format!("there are {} pictures, and at most {PICTURES_MAX} are taken", values.len());
                Err(self.wrong(key, problem, "give fewer in a line"))
            }
            Some(Value::Array(values)) => values.iter().map(path).collect(),
            Some(value) => Ok(vec![path(value)?]),
        }
    }

    /// Refuses texts whose `<image>` marks are not as many as the pictures.
    pub fn check_placeholders(&self, key: &'static str, messages: &[Message], images: usize) -> Result<(), DataError> {
        let placeholders: usize = messages.iter().map(|message| message.text.matches("<image>").count()).sum();
        if placeholders == images {
            return Ok(());
        }
        let problem = format!("the text has {placeholders} `<image>` placeholders for {images} pictures");
        Err(self.wrong(key, problem, "give each picture one placeholder, in order"))
    }

    /// The keys that are none of `keys`, with their values.
    pub fn columns(&self, keys: &[&str]) -> Map<String, Value> {
        let others = self.object.iter().filter(|(key, _)| !keys.contains(&key.as_str()));
        others.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// A JSON value in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
