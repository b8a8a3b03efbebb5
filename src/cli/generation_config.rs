//! What a checkpoint says about how its tokens should be drawn.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value};

use crate::hub::keys::{GENERATION, shown, warnings};
use crate::hub::{POINTER_REMEDY, is_lfs_pointer};
use crate::model::config;

/// A checkpoint's `generation_config.json`; empty where it is missing.
pub struct GenerationConfig {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads it from a checkpoint folder, and warns of its keys that have no effect. As in transformers, `config.json` may say what ends an
    /// answer where it does not.
    pub fn open(dir: &Path) -> anyhow::Result<GenerationConfig> {
        let path = dir.join("generation_config.json");
        let mut keys: Map<String, Value> = match std::fs::read(&path) {
            Ok(bytes) if is_lfs_pointer(&bytes) => anyhow::bail!("{} {POINTER_REMEDY}", path.display()),
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is not a JSON object; copy it again from the checkpoint", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        for warning in warnings(&[GENERATION], &keys, "") {
            tracing::warn!("{}: {warning}", path.display());
        }
        let eos = "eos_token_id";
        if keys.get(eos).is_none_or(Value::is_null) {
            let config = config::read(dir)?;
            let found = [&config[eos], &config["text_config"][eos]].into_iter().find(|value| !value.is_null());
            keys.extend(found.map(|value| (eos.to_owned(), value.clone())));
        }
        Ok(GenerationConfig { path, keys })
    }

    /// A number, if it is there.
    pub fn number(&self, key: &str) -> anyhow::Result<Option<f64>> {
        match self.value(key) {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => anyhow::bail!("{}: {key} is {}; it must be a number", self.path.display(), shown(value)),
            },
        }
    }

    /// The temperature, if it is there: 0 where `do_sample` is false.
    pub fn temperature(&self) -> anyhow::Result<Option<f64>> {
        match self.value("do_sample") {
            Value::Null | Value::Bool(true) => self.number("temperature"),
            Value::Bool(false) => Ok(Some(0.0)),
            value => anyhow::bail!("{}: do_sample is {}; it must be true or false", self.path.display(), shown(value)),
        }
    }

    /// Token ids, given as one or as a list; none where the key is missing.
    pub fn ids(&self, key: &str) -> anyhow::Result<Vec<u32>> {
        let values = match self.value(key) {
            Value::Null => &[],
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = values.iter().map(id).collect();
        ids.with_context(|| format!("{}: {key} is {}; it must be token ids", self.path.display(), self.value(key)))
    }

    fn value(&self, key: &str) -> &Value {
        self.keys.get(key).unwrap_or(&Value::Null)
    }
}
