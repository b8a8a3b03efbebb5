//! How the fields of a body are read: whole numbers in any spelling of JSON, and what is wrong in the words of JSON.

use std::fmt::{Display, Formatter};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::files::json::in_json_words;

/// Below this distance from 0 a float is the whole number that it looks like.
const WHOLE_FLOAT_MAX: f64 = 9.3e18;
/// Entries of a list of a request at most: biases, bad words, choices.
pub(super) const ENTRIES_MAX: usize = 1024;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
