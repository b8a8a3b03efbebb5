//! What a checkpoint says about how its tokens should be sampled.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value};

use crate::files::open::{self as files, SETTINGS_BYTES_MAX};
use crate::hub::keys::{GENERATION, shown, warnings};
use crate::hub::{POINTER_REMEDY, is_lfs_pointer};
use crate::model::config;
use crate::rollout::generator::Sampling;

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
        let mut keys: Map<String, Value> = match files::read(&path, SETTINGS_BYTES_MAX) {
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

    /// How tokens are sampled; the defaults of the type where it says nothing, temperature 0 where `do_sample` is false.
    pub fn sampling(&self) -> anyhow::Result<Sampling> {
        let default = Sampling::default();
        let sampled = match self.value("do_sample") {
            Value::Null | Value::Bool(true) => true,
            Value::Bool(false) => false,
            _ => return self.wrong("do_sample", "true or false"),
        };
        let temperature =
            self.number("temperature", |x| x >= 0.0 && (x as f32).is_finite(), "a number from 0 to 3.4e38")?;
        let top_k = self.number("top_k", |k| k >= -1.0 && k.fract() == 0.0, "a whole number from -1")?;
        let top_p = self.number("top_p", |p| p as f32 > 0.0 && p <= 1.0, "a number above 0 and at most 1")?;
        let min_p = self.number("min_p", |p| (0.0..=1.0).contains(&p), "a number between 0 and 1")?;
        let penalty =
            self.number("repetition_penalty", |x| x as f32 > 0.0 && (x as f32).is_finite(), "a number above 0")?;
        let or = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
        Ok(Sampling {
            temperature: if sampled { or(temperature, default.temperature) } else { 0.0 },
            turn_temperatures: Vec::new(),
            top_k: top_k.map_or(default.top_k, |k| k.max(0.0) as usize),
            top_p: or(top_p, default.top_p),
            min_p: or(min_p, default.min_p),
            repetition_penalty: or(penalty, default.repetition_penalty),
            code_temperature: None,
        })
    }

    /// The tokens of an answer, if it says.
    pub fn max_tokens(&self) -> anyhow::Result<Option<usize>> {
        let tokens = self.number("max_new_tokens", |n| n >= 1.0 && n.fract() == 0.0, "a whole number from 1")?;
        Ok(tokens.map(|tokens| tokens as usize))
    }

    /// The tokens that end an answer; none where it does not say.
    pub fn eos(&self) -> anyhow::Result<Vec<u32>> {
        let key = "eos_token_id";
        let values = match self.value(key) {
            Value::Null => &[],
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = values.iter().map(id).collect();
        ids.map_or_else(|| self.wrong(key, "token ids"), Ok)
    }

    fn number(&self, key: &str, holds: impl Fn(f64) -> bool, range: &str) -> anyhow::Result<Option<f64>> {
        match self.value(key) {
            Value::Null => Ok(None),
            value => match value.as_f64().filter(|&number| holds(number)) {
                Some(number) => Ok(Some(number)),
                None => self.wrong(key, range),
            },
        }
    }

    fn wrong<T>(&self, key: &str, range: &str) -> anyhow::Result<T> {
        anyhow::bail!("{}: {key} is {}; it must be {range}", self.path.display(), shown(self.value(key)))
    }

    fn value(&self, key: &str) -> &Value {
        self.keys.get(key).unwrap_or(&Value::Null)
    }
}
