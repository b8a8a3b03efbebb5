//! JSON that others wrote: reading it into a type, and what is wrong with it in the words of JSON.

use serde::Deserialize;
use serde_json::error::Category;

/// Characters of what somebody else wrote that an error repeats.
const SHOWN_MAX: usize = 60;

/// How serde_json says that a number has no floating-point value.
const OUT_OF_RANGE: &str = "number out of range";

/// Reads a document.
///
/// # Errors
/// What is wrong, and with which key: "`a.b[2]` must be a number, not null", "it is not valid JSON: ...".
pub fn read_json<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| in_words(&error))?;
    json.end().map_err(|error| format!("it {}", in_json_words(&error)))?;
    Ok(read)
}

/// What is wrong, and with which key, as a sentence.
pub fn in_words(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match key_of(error) {
        Some(key) => format!("`{key}` {}", in_json_words(error.inner())),
        None => format!("it {}", in_json_words(error.inner())),
    }
}

/// [`in_words`] of a line of a file, whose number somebody else says.
pub fn in_words_of_line(error: &serde_json::Error) -> String {
    format!("it {}", in_json_words(error)).replace(" at line 1 column ", " at column ")
}

/// The key whose value is wrong; none where it is the whole.
fn key_of(error: &serde_path_to_error::Error<serde_json::Error>) -> Option<String> {
    let path = error.path().to_string();
    // What is wrong with a key that nobody knows is wrong with what has it.
    let is_unknown = error.inner().to_string().starts_with("unknown field ");
    let path = if is_unknown { path.rsplit_once('.').map_or("", |(outer, _)| outer) } else { &path };
    (!["", "."].contains(&path) && is_of_value(error.inner())).then(|| shorten(path))
}

/// Whether a value is wrong, not the text.
pub fn is_of_value(error: &serde_json::Error) -> bool {
    error.is_data() || error.to_string().starts_with(OUT_OF_RANGE)
}

/// What is wrong with a value, as the rest of a sentence that begins with its name: serde's errors speak of Rust's types.
pub fn in_json_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    if text == OUT_OF_RANGE {
        return "is a number that is too large".to_owned();
    }
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

/// The first characters of a text that somebody else wrote, without characters that would govern a terminal.
pub fn shorten(text: &str) -> String {
    let shown = text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    let rest = if text.chars().nth(SHOWN_MAX).is_some() { "..." } else { "" };
    shown.chain(rest.chars()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    fn words<T: serde::de::DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        in_json_words(&serde_json::from_str::<T>(json).unwrap_err())
    }

    #[test]
    fn errors_speak_of_json() {
        assert_eq!(words::<Vec<u32>>("{}"), "must be a list, not an object");
        assert_eq!(words::<bool>("\"a\""), "must be true or false, not the string \"a\"");
        assert_eq!(words::<f32>("[]"), "must be a number, not a list");
        assert_eq!(words::<String>("3"), "must be a string, not the number 3");
        assert_eq!(words::<String>("1.5"), "must be a string, not the number 1.5");
        assert_eq!(words::<Map<String, Value>>("true"), "must be an object, not true");
        assert!(words::<bool>(&format!("\"{}\"", "x, expected y".repeat(10_000))).len() < 200);
    }

    #[test]
    fn errors_name_the_key() {
        type Table = std::collections::BTreeMap<String, Vec<u32>>;
        let said = |json: &str| read_json::<Table>(json.as_bytes()).unwrap_err();
        assert_eq!(said(r#"{"a": [1, "x"]}"#), "`a[1]` must be a whole number, not the string \"x\"");
        assert_eq!(said(r#"{"a": 3}"#), "`a` must be a list, not the number 3");
        assert_eq!(said("[]"), "it must be an object, not a list");
        assert!(said("{").starts_with("it is not valid JSON: "));
        assert!(said("{} {}").starts_with("it is not valid JSON: "));
    }
}
