//! The language model's rotary frequencies, as they are or scaled for longer contexts, by a config's `rope_scaling` (as released) or
//! `rope_parameters` (as transformers 5 writes it). Equal to transformers' `modeling_rope_utils`.

use std::f64::consts::TAU;

use serde_json::{Map, Value};

use super::families::{Family, Mrope};
use super::keys::{ConfigError, Keys};
use crate::hub::keys::{Entry, ROPE, accept, shown, warnings};

/// Angles for each position.
#[derive(Clone, PartialEq, Debug)]
pub struct Rope {
    /// Base of the angles.
    pub theta: f64,
    /// How many angles follow the temporal, height and width position; they sum to head_dim / 2.
    pub mrope_section: [usize; 3],
    /// Which angles these are.
    pub mrope: Mrope,
    /// How the angles are scaled.
    pub scaling: RopeScaling,
}

/// How angles are scaled, the same for a sequence of any length.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by the factor.
    Linear {
        /// By how much the context grows.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>).
    Yarn(Yarn),
}

/// Slow angles are divided by the factor, fast ones stay as they are, those between are blended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Yarn {
    /// By how much the context grows.
    pub factor: f64,
    /// Longest sequence before it grew.
    pub original_context: f64,
    /// Angles that turn more often than this in the original context stay.
    pub beta_fast: f64,
    /// Angles that turn less often than this are divided by the factor.
    pub beta_slow: f64,
    /// Whether the bounds between are whole numbers.
    pub truncate: bool,
    /// What cosines and sines are multiplied by.
    pub attention_factor: f64,
}

/// Keys that only some values of `rope_type` read.
const SCALING_KEYS: [&str; 8] = [
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "beta_fast",
    "beta_slow",
    "truncate",
];

/// The object of rotary keys and its name: `rope_scaling` before `rope_parameters`, as in transformers.
fn object<'a>(text: Keys<'a>) -> Option<(&'static str, &'a Value)> {
    let names = ["rope_scaling", "rope_parameters"];
    names
        .into_iter()
        .find_map(|name| Some((name, text.find(name).filter(|value| **value != Value::Object(Map::new()))?)))
}

/// `rope_type`, or the older `type`.
fn rope_type(rope: &Map<String, Value>) -> &Value {
    let names = ["rope_type", "type"];
    names.into_iter().find_map(|name| rope.get(name).filter(|value| !value.is_null())).unwrap_or(&Value::Null)
}

impl Rope {
    pub(super) fn from_keys(text: Keys<'_>, family: &Family, context_tokens: usize) -> Result<Rope, ConfigError> {
        let (defaults, mrope) = (&family.text.defaults, family.text.mrope);
        let theta = text.base_or("rope_theta", defaults.rope_theta)?;
        let Some((name, value)) = object(text) else {
            return Ok(Rope { theta, mrope_section: defaults.mrope_section, mrope, scaling: RopeScaling::None });
        };
        let place = format!("{}{name}.", text.place);
        let map = value.as_object().ok_or_else(|| text.wrong(name, "an object"))?;
        accept(&[ROPE, family.keys.rope], map, &place).map_err(ConfigError::Refused)?;
        let keys = Keys { object: map, place: &place };
        let scaling = match rope_type(map) {
            Value::Null => RopeScaling::None,
            Value::String(kind) => match kind.as_str() {
                "default" | "mrope" => RopeScaling::None,
                "linear" => RopeScaling::Linear { factor: keys.at_least_one("factor")? },
                "yarn" => RopeScaling::Yarn(Yarn::from_keys(keys, context_tokens)?),
                other => return Err(unsupported(&place, other)),
            },
            other => return Err(unsupported(&place, &other.to_string())),
        };
        let mrope_section = match keys.find("mrope_section") {
            Some(value) => {
                section(value).ok_or_else(|| keys.wrong("mrope_section", "a list of three whole numbers"))?
            }
            None => defaults.mrope_section,
        };
        let theta = keys.base_or("rope_theta", theta)?;
        Ok(Rope { theta, mrope_section, mrope, scaling })
    }

    /// Which position each of the head_dim/2 angles follows: 0 time, 1 height, 2 width.
    pub fn axes(&self, head_dim: usize) -> Vec<usize> {
        match self.mrope {
            Mrope::Contiguous => {
                let sections = self.mrope_section.iter().enumerate();
                sections.flat_map(|(axis, &n)| std::iter::repeat_n(axis, n)).collect()
            }
            Mrope::Interleaved => {
                let axis = |i: usize| if i < 3 * self.mrope_section[i % 3] { i % 3 } else { 0 };
                (0..head_dim / 2).map(axis).collect()
            }
        }
    }

    /// The frequencies of the head_dim/2 angles: angle `i` is `position · theta^(−2i/head_dim)`, scaled.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let wavelength = |i: usize| self.theta.powf(2.0 * i as f64 / head_dim as f64);
        let angles = 0..head_dim / 2;
        match self.scaling {
            RopeScaling::None => angles.map(|i| 1.0 / wavelength(i) as f32).collect(),
            RopeScaling::Linear { factor } => angles.map(|i| 1.0 / (factor * wavelength(i)) as f32).collect(),
            RopeScaling::Yarn(yarn) => {
                let (low, high) = yarn.blended(head_dim as f64, self.theta);
                let frequency = |i: usize| {
                    let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - divided) / wavelength(i) + divided / (yarn.factor * wavelength(i))
                };
                angles.map(|i| frequency(i) as f32).collect()
            }
        }
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor as f32,
            RopeScaling::None | RopeScaling::Linear { .. } => 1.0,
        }
    }
}

impl Yarn {
    fn from_keys(keys: Keys<'_>, context_tokens: usize) -> Result<Yarn, ConfigError> {
        let factor = keys.at_least_one("factor")?;
        // As in transformers, zero means the default.
        let unless_zero = |key: &str, default: f64| {
            keys.number_or(key, default).map(|value| if value == 0.0 { default } else { value })
        };
        let [mscale, mscale_all_dim] = ["mscale", "mscale_all_dim"].map(|key| keys.number_or(key, 0.0));
        let (mscale, mscale_all_dim) = (mscale?, mscale_all_dim?);
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let inferred = match mscale != 0.0 && mscale_all_dim != 0.0 {
            true => magnitude(mscale) / magnitude(mscale_all_dim),
            false => magnitude(1.0),
        };
        let yarn = Yarn {
            factor,
            original_context: keys.number_or("original_max_position_embeddings", context_tokens as f64)?,
            beta_fast: unless_zero("beta_fast", 32.0)?,
            beta_slow: unless_zero("beta_slow", 1.0)?,
            // Null is off in transformers.
            truncate: !keys.object.get("truncate").is_some_and(Value::is_null) && keys.flag_or("truncate", true)?,
            attention_factor: keys.number_or("attention_factor", inferred)?,
        };
        let positive = [
            ("original_max_position_embeddings", yarn.original_context),
            ("beta_fast", yarn.beta_fast),
            ("beta_slow", yarn.beta_slow),
        ];
        match positive.into_iter().find(|(_, value)| *value <= 0.0) {
            Some((key, _)) => Err(keys.wrong(key, "a number above 0")),
            None => Ok(yarn),
        }
    }

    /// From which angle to which the two frequencies are blended.
    fn blended(self, head_dim: f64, theta: f64) -> (f64, f64) {
        let turning = |turns: f64| head_dim * (self.original_context / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (turning(self.beta_fast), turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(head_dim - 1.0));
        // As in transformers: no division by zero where both are the same.
        (low, if low == high { high + 0.001 } else { high })
    }
}

/// A warning for each rotary key of the language model that has no effect.
pub(super) fn rope_warnings(text: Keys<'_>, family: &[Entry]) -> Vec<String> {
    let Some((name, Value::Object(map))) = object(text) else { return Vec::new() };
    let place = format!("{}{name}.", text.place);
    let mut found = warnings(&[ROPE, family], map, &place);
    let kind = rope_type(map).as_str().unwrap_or("default");
    let read: &[&str] = match kind {
        "yarn" => &SCALING_KEYS,
        "linear" => &["factor"],
        _ => &[],
    };
    let keys = Keys { object: map, place: &place };
    let left = SCALING_KEYS.iter().filter(|key| !read.contains(key));
    found.extend(left.filter_map(|key| {
        let value = keys.find(key)?;
        Some(format!("`{place}{key}` is {value} and has no effect: the rope_type is `{kind}`, which does not read it"))
    }));
    let plain = |kind: &Value| if kind == "mrope" { "default".into() } else { kind.clone() };
    if let (Some(used), Some(other)) = (keys.find("rope_type"), keys.find("type"))
        && plain(used) != plain(other)
    {
        found.push(format!("`{place}type` is {} and has no effect beside a rope_type of {used}", shown(other)));
    }
    if let (Some(scaling), Some(parameters)) = (text.find("rope_scaling"), text.find("rope_parameters"))
        && name == "rope_scaling"
        && scaling != parameters
    {
        found.push(format!(
            "`{0}rope_parameters` has no effect beside `{0}rope_scaling`, which is used as in transformers",
            text.place
        ));
    }
    found
}

fn section(value: &Value) -> Option<[usize; 3]> {
    let numbers = value.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize));
    numbers.collect::<Option<Vec<usize>>>()?.try_into().ok()
}

fn unsupported(place: &str, kind: &str) -> ConfigError {
    ConfigError::Refused(format!(
        "`{place}rope_type` (or `type`) is {kind}; only default, mrope, linear and yarn are supported: use one of them, or a checkpoint \
         whose context was extended by one"
    ))
}
