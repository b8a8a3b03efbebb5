//! Keys of a config file, looked up and checked one by one.

use serde_json::{Map, Value};

use super::families;
use crate::hub::POINTER_REMEDY;
use crate::hub::keys::shown;

/// Largest width of anything: no product of sizes overflows below it.
pub(super) const WIDTH_MAX: usize = 1 << 20;
/// Largest epsilon of a norm, and largest standard deviation of initial weights.
const SMALL_MAX: f64 = 1.0;
/// Largest base of rotary angles.
const BASE_MAX: f64 = 1e15;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; a checkpoint folder needs a config.json")]
    Read {
        /// The config.json that was looked for.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("{path} is not valid JSON: {source}; copy it again from the checkpoint")]
    Json {
        /// The config.json that was read.
        path: String,
        /// Where the parser stopped, and why.
        source: serde_json::Error,
    },
    /// An architecture that is not implemented.
    #[error("model_type `{0}` is not supported; supported are {known}", known = families::listed())]
    Family(String),
    /// What git-lfs left in place of the file.
    #[error("{0} {POINTER_REMEDY}")]
    Pointer(String),
    /// A key is missing or has a wrong type.
    #[error("config key `{key}` is {found}; it must be {expected}: take config.json from the checkpoint again")]
    Key {
        /// The key after the objects that it stands in, such as `vision_config.depth`.
        key: String,
        /// Its value, or that it is missing.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key whose value means something that is not built.
    #[error("config key {0}")]
    Refused(String),
    /// Numbers that contradict each other.
    #[error("config is contradictory: {0}")]
    Contradiction(String),
}

/// Looks keys up in one object of the file.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub object: &'a Map<String, Value>,
    /// What stands before its keys in messages.
    pub place: &'a str,
}

impl<'a> Keys<'a> {
    /// A value that is not null.
    pub fn find(self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// An object, if there is one.
    pub fn object_of(self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        let Some(value) = self.find(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Keys { object, place: self.place }))
    }

    /// A whole number from 1 on.
    pub fn size(self, key: &str) -> Result<usize, ConfigError> {
        let value = self.find(key).and_then(Value::as_u64).filter(|&v| v > 0 && v <= WIDTH_MAX as u64);
        value.map(|v| v as usize).ok_or_else(|| self.wrong(key, "a whole number from 1 to 1048576"))
    }

    /// The same, or `default` where there is none.
    pub fn size_or(self, key: &str, default: usize) -> Result<usize, ConfigError> {
        if self.find(key).is_some() { self.size(key) } else { Ok(default) }
    }

    /// A number, or `default` where there is none.
    pub fn number_or(self, key: &str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.find(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| (0.0..=BASE_MAX).contains(number));
        number.ok_or_else(|| self.wrong(key, "a number from 0 to 1e15"))
    }

    /// A norm's epsilon, or `default` where there is none. Above zero as an f32, so that a row of zeros has a norm.
    pub fn epsilon_or(self, key: &str, default: f64) -> Result<f32, ConfigError> {
        let Some(value) = self.find(key) else { return Ok(default as f32) };
        let epsilon = value.as_f64().filter(|epsilon| *epsilon as f32 > 0.0 && *epsilon <= SMALL_MAX);
        epsilon.map(|epsilon| epsilon as f32).ok_or_else(|| self.wrong(key, "a number above 0 and at most 1"))
    }

    /// The deviation of initial weights, or `default` where there is none.
    pub fn deviation_or(self, key: &str, default: f64) -> Result<f32, ConfigError> {
        let Some(value) = self.find(key) else { return Ok(default as f32) };
        let deviation = value.as_f64().filter(|deviation| (0.0..=SMALL_MAX).contains(deviation));
        deviation.map(|deviation| deviation as f32).ok_or_else(|| self.wrong(key, "a number from 0 to 1"))
    }

    /// The base of rotary angles, or `default` where there is none.
    pub fn base_or(self, key: &str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.find(key) else { return Ok(default) };
        let base = value.as_f64().filter(|base| *base > 1.0 && *base <= BASE_MAX);
        base.ok_or_else(|| self.wrong(key, "a number above 1 and at most 1e15"))
    }

    /// A number of at least 1.
    pub fn at_least_one(self, key: &str) -> Result<f64, ConfigError> {
        let number = self.find(key).and_then(Value::as_f64).filter(|number| (1.0..=BASE_MAX).contains(number));
        number.ok_or_else(|| self.wrong(key, "a number from 1 to 1e15"))
    }

    /// The same, or `default` where there is none.
    pub fn at_least_one_or(self, key: &str, default: f64) -> Result<f64, ConfigError> {
        if self.find(key).is_some() { self.at_least_one(key) } else { Ok(default) }
    }

    /// True or false, or `default` where there is neither.
    pub fn flag_or(self, key: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.find(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// The error of a key that is missing or has another value.
    pub fn wrong(self, key: &str, expected: &'static str) -> ConfigError {
        let found = self.find(key).map_or("missing".to_owned(), shown);
        ConfigError::Key { key: format!("{}{key}", self.place), found, expected }
    }
}
