//! `tojson` of chat templates: JSON as Python's `json.dumps` writes it.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

use super::python::python_number;

/// Spaces of `tojson(indent=...)` at most.
const INDENT_MAX: usize = 16;

/// `json.dumps(value, ensure_ascii=False, ...)`: unlike Jinja's own filter it escapes no HTML.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if let Some(indent) = indent.filter(|indent| *indent > INDENT_MAX) {
        let message = format!("tojson: indent is {indent}; at most {INDENT_MAX} spaces are taken");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "an undefined value has no JSON"));
    }
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("no JSON for {value}: {error}")))?;
    let mut writer = JsonWriter { out: String::new(), item, key, indent, ensure_ascii, sort_keys };
    writer.write(&json, 0);
    Ok(Value::from_safe_string(writer.out))
}

/// Writes JSON as Python's `json.dumps` does.
struct JsonWriter {
    out: String,
    item: String,
    key: String,
    indent: Option<usize>,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter {
    fn write(&mut self, json: &Json, depth: usize) {
        match json {
            Json::Null => self.out.push_str("null"),
            Json::Bool(flag) => self.out.push_str(if *flag { "true" } else { "false" }),
            Json::Number(number) => self.out.push_str(&python_number(number)),
            Json::String(text) => self.write_string(text),
            Json::Array(items) if items.is_empty() => self.out.push_str("[]"),
            Json::Array(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.start_item(index, depth + 1);
                    self.write(item, depth + 1);
                }
                self.end_items(depth);
                self.out.push(']');
            }
            Json::Object(entries) if entries.is_empty() => self.out.push_str("{}"),
            Json::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.out.push('{');
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.start_item(index, depth + 1);
                    self.write_string(key);
                    self.out.push_str(&self.key);
                    self.write(value, depth + 1);
                }
                self.end_items(depth);
                self.out.push('}');
            }
        }
    }

    fn start_item(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.out.push_str(&self.item);
        }
        self.break_line(depth);
    }

    fn end_items(&mut self, depth: usize) {
        self.break_line(depth);
    }

    fn break_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_string(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                letter if letter < ' ' || (self.ensure_ascii && letter > '~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                letter => self.out.push(letter),
            }
        }
        self.out.push('"');
    }
}
