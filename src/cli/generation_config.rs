//! What a checkpoint says about how its tokens should be drawn.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// A checkpoint's `generation_config.json`; empty where it is missing.
pub struct GenerationConfig {
    path: PathBuf,
    json: Value,
}

impl GenerationConfig {
    /// Reads it from a checkpoint folder.
    pub fn open(dir: &Path) -> anyhow::Result<GenerationConfig> {
        let path = dir.join("generation_config.json");
        let json = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(GenerationConfig { path, json })
    }

    /// A number, if it is there.
    pub fn number(&self, key: &str) -> anyhow::Result<Option<f64>> {
        match &self.json[key] {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => anyhow::bail!("{}: {key} is {value}; it must be a number", self.path.display()),
            },
        }
    }

    /// Token ids, given as one or as a list; none where the key is missing.
    pub fn ids(&self, key: &str) -> anyhow::Result<Vec<u32>> {
        let values = match &self.json[key] {
            Value::Null => &[],
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = values.iter().map(id).collect();
        ids.with_context(|| format!("{}: {key} is {}; it must be token ids", self.path.display(), self.json[key]))
    }
}
