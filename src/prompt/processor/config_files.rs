//! Reading the config files of a checkpoint folder, each of which may be missing.

use std::path::Path;

use serde_json::Value;

use super::error::PromptError;
use crate::files::open::{self as files, SETTINGS_BYTES_MAX};
use crate::hub::{POINTER_REMEDY, is_lfs_pointer};

/// The text of a file, or none when it does not exist.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, PromptError> {
    match files::read_text(path, SETTINGS_BYTES_MAX) {
        Ok(text) if is_lfs_pointer(text.as_bytes()) => {
            Err(PromptError::Invalid { path: path.to_owned(), reason: POINTER_REMEDY.to_owned() })
        }
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PromptError::Read { path: path.to_owned(), source }),
    }
}

/// The JSON object of a file, or none when it does not exist.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>, PromptError> {
    let invalid = |reason: String| PromptError::Invalid {
        path: path.to_owned(),
        reason: format!("is not {reason}; copy it again from the checkpoint"),
    };
    let parse = |text: String| match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err(invalid("a JSON object".to_owned())),
        Err(error) => Err(invalid(format!("valid JSON ({error})"))),
    };
    read_text(path)?.map(parse).transpose()
}
