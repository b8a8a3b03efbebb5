//! A Jinja environment that renders as transformers' does: its whitespace rules, its `tojson`, its extra functions, and
//! Python's way of writing values.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use crate::isolated::on_large_stack;

/// Bytes of a template at most; those of released checkpoints have up to 20 KiB.
const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Bytes of a line at most, and lines: as many as minijinja counts.
const LINE_BYTES_MAX: usize = u16::MAX as usize - 1;
/// Instructions of a rendering at most: a conversation of 10,000 messages takes about a million.
const INSTRUCTIONS_MAX: u64 = 5_000_000;
/// Bytes of a prompt text at most.
const TEXT_BYTES_MAX: usize = 32 << 20;
/// Spaces of `tojson(indent=...)` at most.
const INDENT_MAX: usize = 16;

const TEMPLATE_NAME: &str = "chat";

/// Compiles a template.
///
/// # Errors
/// When it is too large or not valid Jinja.
pub fn compile(source: &str) -> Result<Environment<'static>, String> {
    check_size(source)?;
    let mut environment = environment();
    let compiled = on_large_stack(|| environment.add_template_owned(TEMPLATE_NAME, source.to_owned()));
    compiled.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(environment)
}

/// Checks how long a template and its lines are.
///
/// # Errors
/// When it is too long.
pub fn check_size(source: &str) -> Result<(), String> {
    let longest = source.lines().map(str::len).max().unwrap_or(0);
    if source.len() > SOURCE_BYTES_MAX {
        let bytes = source.len();
        return Err(format!("it has {bytes} bytes; at most {SOURCE_BYTES_MAX} are taken, so make it shorter"));
    }
    let lines = source.lines().count();
    if lines > LINE_BYTES_MAX {
        return Err(format!("it has {lines} lines; at most {LINE_BYTES_MAX} are taken, so make it shorter"));
    }
    if longest > LINE_BYTES_MAX {
        return Err(format!("it has a line of {longest} bytes; at most {LINE_BYTES_MAX} are taken, so break it"));
    }
    Ok(())
}

/// What the template of [`compile`] writes.
///
/// # Errors
/// When it raises an error, or takes more instructions or writes more than it may.
pub fn render(environment: &Environment<'_>, variables: &Map<String, Json>) -> Result<String, String> {
    let render = || {
        let mut text = BoundedText::default();
        let template = environment.get_template(TEMPLATE_NAME)?;
        template.render_captured_to(minijinja::Value::from_serialize(variables), &mut text)?;
        Ok(text.0)
    };
    let bytes =
        on_large_stack(render).map_err(|error| error.to_string())?.map_err(|error: Error| match error.kind() {
            ErrorKind::OutOfFuel => {
                format!("it takes more than {INSTRUCTIONS_MAX} instructions; look for a loop that does not end soon")
            }
            _ if std::error::Error::source(&error).is_some_and(|source| source.is::<std::io::Error>()) => {
                format!("it writes more than {TEXT_BYTES_MAX} bytes; look for a text that grows in a loop")
            }
            _ => in_words_of_jinja(&error.to_string()),
        })?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// An error of a template; minijinja's name Rust's types.
fn in_words_of_jinja(error: &str) -> String {
    let Some((before, rest)) = error.split_once("cannot convert ") else { return error.to_owned() };
    let Some((value, rest)) = rest.split_once(" to ") else { return error.to_owned() };
    let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (wanted, place) = rest.split_at(end);
    let wanted = match wanted {
        "usize" | "u8" | "u16" | "u32" | "u64" | "u128" => "a whole number from 0 on",
        "isize" | "i8" | "i16" | "i32" | "i64" | "i128" => "a whole number",
        "f32" | "f64" => "a number",
        "bool" => "true or false",
        _ => return error.to_owned(),
    };
    format!("{before}a {value} stands where {wanted} must{place}")
}

/// A text that grows no further than it may.
#[derive(Default)]
struct BoundedText(Vec<u8>);

impl std::io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(std::io::Error::other("the text is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The environment of `transformers.utils.chat_template_utils`.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(INSTRUCTIONS_MAX));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|output, _, value| output.write_str(&python_str(value)?).map_err(Error::from));
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// `json.dumps(value, ensure_ascii=False, ...)`: unlike Jinja's own filter it escapes no HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
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

/// What `{{ value }}` writes in Python: `str(value)`, and nothing for undefined.
fn python_str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.to_string()),
        _ => python_repr(value),
    }
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
fn python_number(number: &serde_json::Number) -> String {
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

/// `datetime.now().strftime(format)`, in UTC so that a prompt does not depend on the machine's time zone.
fn strftime_now(format: String) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime(&format, seconds)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The date and time of `seconds` since 1970, in UTC.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[((days + 4) % 7) as usize]);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        // Writing to a String does not fail.
        let _ = match letters.next() {
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:02}", year % 100),
            Some('m') => write!(text, "{month:02}"),
            Some('d') => write!(text, "{day:02}"),
            Some('e') => write!(text, "{day:2}"),
            Some('H') => write!(text, "{:02}", clock / 3600),
            Some('M') => write!(text, "{:02}", clock / 60 % 60),
            Some('S') => write!(text, "{:02}", clock % 60),
            Some('B') => write!(text, "{month_name}"),
            Some('b') => write!(text, "{}", &month_name[..3]),
            Some('A') => write!(text, "{weekday}"),
            Some('a') => write!(text, "{}", &weekday[..3]),
            Some('%') => write!(text, "%"),
            other => {
                let message = format!("strftime_now does not know %{}", other.map_or(String::new(), String::from));
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
    }
    Ok(text)
}

/// Year, month and day of a day counted from 1970-01-01, by the usual count from March 1 of year 0.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them_in_utc() {
        let text = strftime("%A %a %d %e %B %b %Y %y %m %H:%M:%S %%", 1_709_210_096);
        assert_eq!(text.ok().as_deref(), Some("Thursday Thu 29 29 February Feb 2024 24 02 12:34:56 %"));
        assert_eq!(strftime("%d.%m.%Y", 0).ok().as_deref(), Some("01.01.1970"));
        assert!(strftime("%Q", 0).is_err());
    }

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
}
