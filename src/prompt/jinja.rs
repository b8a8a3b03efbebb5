//! A Jinja environment that renders as transformers' does: its whitespace rules, its `tojson`, its extra functions, and
//! Python's way of writing values.

mod dates;
mod json;
mod python;

use dates::strftime_now;
use json::to_json;
use minijinja::{Environment, Error, ErrorKind, Value};
use python::python_str;
pub use python::python_text;
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
