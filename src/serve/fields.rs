//! How the fields of a body are read: whole numbers in any spelling of JSON, and what is wrong in the words of JSON.

use std::fmt::{Display, Formatter};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

/// Characters of what a client sent that an error repeats.
const SHOWN_MAX: usize = 60;
/// Below this distance from 0 a float is the whole number that it looks like.
const WHOLE_FLOAT_MAX: f64 = 9.3e18;

/// A whole number; `8.0` and `8e0` are 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<T>(pub T);

/// Types of whole numbers.
pub trait Integer: TryFrom<i128> {
    /// Its values, in words.
    const VALUES: &'static str;
}

impl Integer for usize {
    const VALUES: &'static str = "a whole number from 0 on";
}

impl Integer for u32 {
    const VALUES: &'static str = "a whole number from 0 to 4294967295";
}

impl Integer for i64 {
    const VALUES: &'static str = "a whole number between -9223372036854775808 and 9223372036854775807";
}

impl<'de, T: Integer> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole<T>, D::Error> {
        deserializer.deserialize_any(WholeVisitor(PhantomData))
    }
}

struct WholeVisitor<T>(PhantomData<T>);

impl<T: Integer> WholeVisitor<T> {
    fn of<E: Error>(value: i128) -> Result<Whole<T>, E> {
        T::try_from(value).map(Whole).map_err(|_| Self::wrong(value))
    }

    fn wrong<E: Error>(value: impl Display) -> E {
        E::custom(format!("is {value}; it must be {}", T::VALUES))
    }
}

impl<T: Integer> Visitor<'_> for WholeVisitor<T> {
    type Value = Whole<T>;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Whole<T>, E> {
        Self::of(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Whole<T>, E> {
        Self::of(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Whole<T>, E> {
        match value.fract() == 0.0 && value.abs() < WHOLE_FLOAT_MAX {
            true => Self::of(value as i128),
            false => Err(Self::wrong(value)),
        }
    }
}

/// Reads a whole number or null.
///
/// # Errors
/// When it is neither, or out of the type's range.
pub fn whole<'de, D: Deserializer<'de>, T: Integer>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Whole<T>>::deserialize(deserializer)?.map(|whole| whole.0))
}

/// Reads a whole number.
///
/// # Errors
/// When it is none, or out of the type's range.
pub fn whole_number<'de, D: Deserializer<'de>, T: Integer>(deserializer: D) -> Result<T, D::Error> {
    Whole::deserialize(deserializer).map(|whole| whole.0)
}

/// Reads a list of whole numbers.
///
/// # Errors
/// When it is none, or one of them is out of the type's range.
pub fn wholes<'de, D: Deserializer<'de>, T: Integer>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Whole<T>>::deserialize(deserializer)?.into_iter().map(|whole| whole.0).collect())
}

/// Reads a list of whole numbers or null.
///
/// # Errors
/// When it is neither, or one of them is out of the type's range.
pub fn optional_wholes<'de, D: Deserializer<'de>, T: Integer>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<Whole<T>>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|whole| whole.0).collect()))
}

/// An object: serde would take a list for one too, as the fields in order.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads an object.
///
/// # Errors
/// When it is none, or those of the type.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|object| object.0)
}

/// Reads an object or null.
///
/// # Errors
/// When it is neither, or those of the type.
pub fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// Reads a small object without lists in which each whole number may be spelled as a float, or null.
///
/// # Errors
/// Those of the type.
pub fn with_whole_floats<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let Some(mut value) = Option::<Value>::deserialize(deserializer)? else { return Ok(None) };
    if has_list(&value) {
        return Err(D::Error::custom("must be an object of numbers, not a list"));
    }
    make_whole(&mut value);
    serde_json::from_value(value).map(Some).map_err(|error| D::Error::custom(in_json_words(&error)))
}

fn has_list(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(fields) => fields.values().any(has_list),
        _ => false,
    }
}

/// Puts whole numbers in place of floats that are whole, in all that a value holds.
pub fn make_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = whole_float(number) {
                *number = whole.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(make_whole),
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        _ => {}
    }
}

fn whole_float(number: &serde_json::Number) -> Option<i64> {
    let float = number.as_f64().filter(|_| number.is_f64())?;
    (float.fract() == 0.0 && float.abs() < WHOLE_FLOAT_MAX).then_some(float as i64)
}

/// The whole number from 0 on that a JSON value is.
pub fn whole_value(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    number.as_u64().or_else(|| u64::try_from(whole_float(number)?).ok())
}

/// What is wrong with a body, as a sentence about the field: serde's errors speak of Rust's types, which no client knows.
pub fn in_json_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    if error.classify() != Category::Data {
        return match text.starts_with("recursion limit exceeded") {
            true => "is nested too deeply; 127 levels of lists and objects are read".to_owned(),
            false => format!("is not valid JSON: {text}{place}"),
        };
    }
    if let Some(rest) = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        return format!("must be {}, not {}", expected_words(expected), found_words(found));
    }
    if text.starts_with("invalid length ") {
        return "has too few or too many entries".to_owned();
    }
    if let Some(rest) = text.strip_prefix("missing field ") {
        return format!("lacks the field {rest}");
    }
    if let Some(rest) = text.strip_prefix("duplicate field ") {
        return format!("has the field {rest} twice; send it once");
    }
    for (prefix, what) in [("unknown field ", "field"), ("unknown variant ", "value")] {
        if let Some(rest) = text.strip_prefix(prefix)
            && let Some((found, known)) = rest.rsplit_once(", expected ")
        {
            return format!(
                "has the {what} {}, which is not known; known: {}",
                shorten(found),
                known.trim_start_matches("one of ")
            );
        }
    }
    // What the readers of this program say themselves.
    text.chars().take(500).collect()
}

/// What a type takes.
fn expected_words(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a borrowed string" | "string or map" | "variant identifier" | "field identifier" => "a string",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("tuple ") || other.starts_with("an array of length") => "a list",
        other if other.starts_with("enum ") => "a string",
        other => other,
    }
}

/// What stood in its place.
fn found_words(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" | "Option value" => "null".to_owned(),
        _ => match found.split_once(' ') {
            Some(("string" | "character", text)) => format!("the string {}", shorten(text)),
            Some(("integer", number)) => format!("the number {}", number.trim_matches('`')),
            Some(("floating", number)) => {
                format!("the number {}", number.trim_start_matches("point ").trim_matches('`'))
            }
            Some(("boolean", value)) => value.trim_matches('`').to_owned(),
            _ => "a value of another kind".to_owned(),
        },
    }
}

/// The first characters of a text of a client, without characters that would govern a terminal.
pub fn shorten(text: &str) -> String {
    let shown = text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    let rest = if text.chars().nth(SHOWN_MAX).is_some() { "..." } else { "" };
    shown.chain(rest.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<T: serde::de::DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        in_json_words(&serde_json::from_str::<T>(json).unwrap_err())
    }

    #[test]
    fn whole_numbers_may_be_spelled_as_floats() {
        let read = |json: &str| serde_json::from_str::<Whole<usize>>(json).map(|whole| whole.0);
        for (json, value) in [("8", 8), ("8.0", 8), ("8e0", 8), ("-0.0", 0), ("1e3", 1000), ("80e-1", 8)] {
            assert_eq!(read(json).unwrap(), value, "{json}");
        }
        for json in ["8.5", "-1", "-1.0", "1e30", "1e19", "true", "\"8\"", "[8]", "null", "{}"] {
            let words = in_json_words(&read(json).unwrap_err());
            assert!(words.contains("must be a whole number"), "{json}: {words}");
        }
        assert_eq!(serde_json::from_str::<Whole<i64>>("-1.0").unwrap().0, -1);
        assert!(serde_json::from_str::<Whole<u32>>("4294967296").is_err());
    }

    #[test]
    fn errors_speak_of_json() {
        assert_eq!(words::<Vec<u32>>("{}"), "must be a list, not an object");
        assert_eq!(words::<bool>("\"a\""), "must be true or false, not the string \"a\"");
        assert_eq!(words::<f32>("[]"), "must be a number, not a list");
        assert_eq!(words::<String>("3"), "must be a string, not the number 3");
        assert_eq!(words::<String>("1.5"), "must be a string, not the number 1.5");
        assert_eq!(words::<serde_json::Map<String, Value>>("true"), "must be an object, not true");
        assert!(words::<bool>(&format!("\"{}\"", "x, expected y".repeat(10_000))).len() < 200);
    }
}
