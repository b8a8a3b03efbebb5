//! Values as Python writes them: `str` and `repr`, numbers, quoted strings.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use serde_json::Value as Json;

/// What `{{ value }}` writes in Python: `str(value)`, and nothing for undefined.
pub(super) fn python_str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.to_string()),
        _ => python_repr(value),
    }
}

/// `str(value)` of a value that Python has read from JSON: `[1, 2.5]`, and text as it is.
pub fn python_text(value: &Json) -> String {
    let value = Value::from_serialize(value);
    python_str(&value).unwrap_or_else(|_| value.to_string())
}

fn python_repr(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => match serde_json::to_value(value) {
            Ok(Json::Number(number)) => python_number(&number),
            _ => value.to_string(),
        },
        ValueKind::String => python_quoted(&value.to_string()),
        ValueKind::Seq => {
            let items = value.try_iter()?.map(|item| python_repr(&item)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let entry = |key: Value| Ok(format!("{}: {}", python_repr(&key)?, python_repr(&value.get_item(&key)?)?));
            let entries = value.try_iter()?.map(entry).collect::<Result<Vec<_>, Error>>()?;
            format!("{{{}}}", entries.join(", "))
        }
        _ => value.to_string(),
    })
}

/// `repr` of a string: single quotes, unless it has some and no double ones.
fn python_quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            letter if letter == quote => quoted.extend(['\\', letter]),
            letter if letter < ' ' || letter == '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted.push(quote);
    quoted
}

/// A number as Python writes it: integers plainly, floats as the shortest digits that read back, with an exponent below
/// 1e-4 and from 1e16.
pub(super) fn python_number(number: &serde_json::Number) -> String {
    let float = match number.as_f64() {
        Some(float) if number.is_f64() => float,
        _ => return number.to_string(),
    };
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..16 => {
            let plain = format!("{float}");
            if exponent >= 0 && !plain.contains('.') { plain + ".0" } else { plain }
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let written = |float: f64| serde_json::Number::from_f64(float).map(|number| python_number(&number));
        for (float, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5e-5, "-2.5e-05"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
        ] {
            assert_eq!(written(float).as_deref(), Some(text));
        }
        assert_eq!(python_number(&7.into()), "7");
    }

    #[test]
    fn what_was_json_is_written_as_python_writes_it() {
        let json = serde_json::json!([1, 2.5, -3.0, 1e-7, "it's", null, true, {"a": []}]);
        assert_eq!(python_text(&json), r#"[1, 2.5, -3.0, 1e-07, "it's", None, True, {'a': []}]"#);
        assert_eq!(python_text(&"as it is".into()), "as it is");
    }
}
