//! Reference answers: texts, regular expressions, numbers with a tolerance; one of them is enough.

use std::fmt;

use regex::Regex;
use serde_json::{Value, json};

/// The reference answers of a task. An answer is right if it fits one of them.
#[derive(Clone, Debug, Default)]
pub struct Solution {
    accepted: Vec<Accepted>,
}

/// One reference answer.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// A text that an answer equals by the answer reward's rules.
    Text(String),
    /// A regular expression that fits the whole of an answer.
    Pattern {
        /// As the data write it.
        text: String,
        /// The expression, anchored at both ends.
        regex: Regex,
    },
    /// A number that an answer may differ from.
    Number {
        /// The number that an answer is compared to.
        number: f64,
        /// The largest difference that is accepted.
        tolerance: Tolerance,
    },
}

/// The largest difference from a number that is accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// In the number's own unit.
    Absolute(f64),
    /// As a share of the number.
    Relative(f64),
}

const REMEDY: &str = "it should be a string, a number, {\"regex\": \"…\"}, {\"number\": 3.5, \"tolerance\": 0.1}, {\"number\": 3.5, \
                      \"relative_tolerance\": 0.05}, or a list of these";

impl Solution {
    /// A single text; empty for an empty one.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        let accepted = if text.trim().is_empty() { Vec::new() } else { vec![Accepted::Text(text)] };
        Self { accepted }
    }

    /// Reads the `solution` of a line of data.
    ///
    /// # Errors
    /// What is wrong with it, and the forms that it may have.
    pub fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::String(text) => Ok(Self::text(&**text)),
            Value::Array(values) if values.is_empty() => Err(format!("found an empty list; {REMEDY}")),
            Value::Array(values) => Ok(Self { accepted: values.iter().map(accepted).collect::<Result<_, _>>()? }),
            other => Ok(Self { accepted: vec![accepted(other)?] }),
        }
    }

    /// The reference answers; empty where there is none.
    pub fn accepted(&self) -> &[Accepted] {
        &self.accepted
    }

    /// As the data write it; null where there is none.
    pub fn to_json(&self) -> Value {
        match self.accepted.as_slice() {
            [] => Value::Null,
            [only] => only.to_json(),
            several => several.iter().map(Accepted::to_json).collect(),
        }
    }
}

impl PartialEq for Solution {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}

impl Eq for Solution {}

impl From<&str> for Solution {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl fmt::Display for Solution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |accepted: &Accepted| match accepted {
            Accepted::Text(text) => text.clone(),
            other => other.to_json().to_string(),
        };
        formatter.write_str(&self.accepted.iter().map(shown).collect::<Vec<_>>().join(" | "))
    }
}

impl Accepted {
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Pattern { text, .. } => json!({ "regex": text }),
            Self::Number { number, tolerance: Tolerance::Absolute(size) } => {
                json!({"number": number, "tolerance": size})
            }
            Self::Number { number, tolerance: Tolerance::Relative(share) } => {
                json!({"number": number, "relative_tolerance": share})
            }
        }
    }
}

fn accepted(value: &Value) -> Result<Accepted, String> {
    let size = |key: &str, value: &Value| match value.as_f64() {
        Some(size) if size >= 0.0 && size.is_finite() => Ok(size),
        _ => Err(format!("`{key}` is {value}; it should be a number of at least 0")),
    };
    match value {
        Value::String(text) if text.trim().is_empty() => Err(format!("found an empty text in a list; {REMEDY}")),
        Value::String(text) => Ok(Accepted::Text(text.clone())),
        Value::Number(number) => Ok(Accepted::Text(number.to_string())),
        Value::Object(keys) => match (keys.get("regex"), keys.get("number"), keys.len()) {
            (Some(Value::String(text)), None, 1) => {
                let regex = Regex::new(&format!(r"\A(?:{text})\z"))
                    .map_err(|error| format!("the regular expression {text:?} cannot be read: {error}"))?;
                Ok(Accepted::Pattern { text: text.clone(), regex })
            }
            (None, Some(Value::Number(number)), 2) => {
                let tolerance = match (keys.get("tolerance"), keys.get("relative_tolerance")) {
                    (Some(value), None) => Tolerance::Absolute(size("tolerance", value)?),
                    (None, Some(value)) => Tolerance::Relative(size("relative_tolerance", value)?),
                    _ => return Err(format!("found {value}; {REMEDY}")),
                };
                Ok(Accepted::Number { number: number.as_f64().unwrap_or(f64::NAN), tolerance })
            }
            _ => Err(format!("found {value}; {REMEDY}")),
        },
        other => Err(format!("found {other}; {REMEDY}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for value in [
            json!("7"),
            json!(["seven", "7"]),
            json!({"regex": "ab+"}),
            json!({"number": 3.5, "tolerance": 0.1}),
            json!([{"number": 3.5, "relative_tolerance": 0.05}, "x"]),
            json!(null),
        ] {
            assert_eq!(Solution::read(&value).unwrap().to_json(), value);
        }
        assert_eq!(Solution::read(&json!(7)).unwrap().to_json(), json!("7"));
        for value in [
            json!([]),
            json!({"regex": "("}),
            json!({"number": 3.5}),
            json!({"number": 3.5, "tolerance": -1}),
            json!({"regex": "a", "number": 1}),
            json!(true),
            json!([["a"]]),
        ] {
            assert!(Solution::read(&value).is_err(), "{value}");
        }
    }
}
