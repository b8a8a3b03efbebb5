//! The form of Qwen3-Coder and Qwen3.5: `<function=NAME>` with a `<parameter=KEY>` for each argument. Values are text, converted by their
//! types in the tool's schema much as vLLM's `qwen3_coder` parser does. A string is never converted, not even `null`.

use serde_json::{Map, Value};

use super::loose_json::{self, json_of_constant};
use super::python_json::to_json;
use super::repairs::{MISSING_FUNCTION_END, MISSING_OPENING_TAG, MISSING_PARAMETER_END, Repairs, STRAY_TEXT};
use super::tags::{self, Read, Tagged};
use super::written::{CallProblem, FoundCall};

/// Opens a call.
pub(super) const OPEN: &str = "<tool_call>";
/// Closes a call.
pub(super) const CLOSE: &str = "</tool_call>";
/// How a call looks.
pub(super) const EXAMPLE: &str =
    "<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>";

const FUNCTION_OPEN: &str = "<function=";
const FUNCTION_CLOSE: &str = "</function>";
const PARAMETER_OPEN: &str = "<parameter=";
const PARAMETER_CLOSE: &str = "</parameter>";

/// What ends a value.
const VALUE_ENDS: [&str; 3] = [PARAMETER_CLOSE, PARAMETER_OPEN, FUNCTION_CLOSE];
/// What has a meaning between two values.
const MARKS: [&str; 4] = [PARAMETER_OPEN, PARAMETER_CLOSE, FUNCTION_OPEN, FUNCTION_CLOSE];

/// The calls of a text. Where it has no opening tag at all, functions are calls without it.
pub(super) fn find_calls(text: &str, schemas: &[Value]) -> Vec<FoundCall> {
    let has_tags = text.contains(OPEN);
    tags::find_calls(text, &Functions { schemas, has_tags })
}

/// A call as the chat template of Qwen3.6 writes it: strings as they are, everything else as JSON.
pub(super) fn write(tool: &str, arguments: &Map<String, Value>) -> String {
    let mut text = format!("{OPEN}\n{FUNCTION_OPEN}{tool}>\n");
    for (key, value) in arguments {
        let value = value.as_str().map_or_else(|| to_json(value), str::to_owned);
        text += &format!("{PARAMETER_OPEN}{key}>\n{value}\n{PARAMETER_CLOSE}\n");
    }
    text + FUNCTION_CLOSE + "\n" + CLOSE
}

/// Functions, between tags or bare.
struct Functions<'a> {
    schemas: &'a [Value],
    has_tags: bool,
}

impl Tagged for Functions<'_> {
    fn tags(&self) -> [&'static str; 2] {
        if self.has_tags { [OPEN, CLOSE] } else { [FUNCTION_OPEN, FUNCTION_CLOSE] }
    }

    fn reach(&self, text: &str, inside: usize) -> usize {
        let begins = !self.has_tags || text[inside..].trim_start().starts_with(FUNCTION_OPEN);
        begins.then(|| end_of_function(text, inside, self.has_tags)).flatten().unwrap_or(inside)
    }

    fn is_begun(&self, inside: &str) -> bool {
        let inside = inside.trim_start();
        self.has_tags && (inside.starts_with(FUNCTION_OPEN) || inside.starts_with('{'))
    }

    fn read(&self, inside: &str, is_closed: bool) -> Result<Read, CallProblem> {
        let is_bare = !self.has_tags;
        let mut reader = Reader { text: inside, at: 0, is_cut: !is_closed, is_bare, repairs: Repairs::default() };
        if is_bare {
            reader.repairs.add(MISSING_OPENING_TAG);
            return reader.read_function(self.schemas);
        }
        let start = inside.trim_start();
        match inside.find(FUNCTION_OPEN) {
            Some(at) if !start.starts_with(['{', '`']) => {
                reader.leave_out(at);
                reader.at = at + FUNCTION_OPEN.len();
                reader.read_function(self.schemas)
            }
            _ => Err(CallProblem::OtherForm(EXAMPLE)),
        }
    }
}

/// The first of some marks from byte `from` on, and where it stands.
fn next_mark<'m>(text: &str, from: usize, marks: &[&'m str]) -> Option<(usize, &'m str)> {
    let mut brackets = text[from..].match_indices('<').map(|(at, _)| from + at);
    brackets.find_map(|at| {
        let mark = marks.iter().find(|mark| text[at..].starts_with(**mark))?;
        Some((at, *mark))
    })
}

/// Where the function ends that begins behind byte `from`, if every tag before its end is text of a closed value.
fn end_of_function(text: &str, from: usize, has_tags: bool) -> Option<usize> {
    let outside: &[&str] = match has_tags {
        true => &[PARAMETER_OPEN, FUNCTION_CLOSE, OPEN, CLOSE],
        false => &[PARAMETER_OPEN, FUNCTION_CLOSE, FUNCTION_OPEN],
    };
    let mut at = from;
    loop {
        let (mark_at, mark) = next_mark(text, at, outside)?;
        match mark {
            FUNCTION_CLOSE if has_tags => return Some(mark_at + mark.len()),
            // Here it is the closing tag itself.
            FUNCTION_CLOSE => return Some(mark_at),
            PARAMETER_OPEN => {
                let ends = [PARAMETER_CLOSE, PARAMETER_OPEN, FUNCTION_CLOSE, CLOSE];
                let (end, mark) = next_mark(text, mark_at + mark.len(), &ends)?;
                if mark != PARAMETER_CLOSE {
                    return None;
                }
                at = end + mark.len();
            }
            _ => return None,
        }
    }
}

/// Reads one function.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The text ended before a closing tag.
    is_cut: bool,
    /// The closing tag is that of the function.
    is_bare: bool,
    repairs: Repairs,
}

impl<'a> Reader<'a> {
    /// From the function's name on.
    fn read_function(mut self, schemas: &[Value]) -> Result<Read, CallProblem> {
        let tool = self.read_name()?;
        let properties = properties_of(&tool, schemas);
        let mut arguments = Map::new();
        loop {
            let mark = next_mark(self.text, self.at, &MARKS);
            let has_words = self.leave_out(mark.map_or(self.text.len(), |(at, _)| at));
            let is_last = mark.is_none_or(|(_, mark)| mark == FUNCTION_CLOSE);
            if has_words && mark.is_none() && self.is_cut {
                return Err(CallProblem::Cut);
            }
            if has_words && is_last && arguments.is_empty() {
                return Err(CallProblem::OtherForm(EXAMPLE));
            }
            match mark {
                Some((_, PARAMETER_OPEN)) => {
                    self.at += PARAMETER_OPEN.len();
                    let key = self.read_name()?;
                    let text = self.read_value()?;
                    let property = properties.and_then(|properties| properties.get(&key));
                    let value = self.convert(text, property);
                    arguments.insert(key, value);
                }
                Some((_, PARAMETER_CLOSE)) => self.at += PARAMETER_CLOSE.len(),
                Some((_, FUNCTION_CLOSE)) => {
                    self.at += FUNCTION_CLOSE.len();
                    break;
                }
                Some(_) => return Err(CallProblem::SeveralCalls),
                None if self.is_bare => break,
                None => {
                    self.repairs.add(MISSING_FUNCTION_END);
                    break;
                }
            }
        }
        let end = self.at;
        if self.text[end..].contains(FUNCTION_OPEN) {
            return Err(CallProblem::SeveralCalls);
        }
        if !self.is_cut {
            self.leave_out(self.text.len());
        }
        Ok(Read { tool, arguments, repairs: self.repairs, end })
    }

    /// Goes on at byte `at`, and notes whether words stand before it.
    fn leave_out(&mut self, at: usize) -> bool {
        let has_words = !self.text[self.at..at].trim().is_empty();
        if has_words {
            self.repairs.add(STRAY_TEXT);
        }
        self.at = at;
        has_words
    }

    /// What stands before the next `>` on this line.
    fn read_name(&mut self) -> Result<String, CallProblem> {
        let rest = &self.text[self.at..];
        let end = rest.find(['>', '\n', '<']).filter(|end| rest[*end..].starts_with('>'));
        let name = end.map_or("", |end| rest[..end].trim());
        let Some(end) = end.filter(|_| !name.is_empty()) else {
            return Err(if self.is_cut { CallProblem::Cut } else { CallProblem::NoName(EXAMPLE) });
        };
        self.at += end + 1;
        Ok(name.to_owned())
    }

    /// The text of a value, without the line breaks that part it from its marks.
    fn read_value(&mut self) -> Result<&'a str, CallProblem> {
        let (text, start) = (self.text, self.at);
        let mark = next_mark(text, start, &VALUE_ENDS);
        let end = mark.map_or(text.len(), |(at, _)| at);
        self.at = match mark {
            Some((at, PARAMETER_CLOSE)) => at + PARAMETER_CLOSE.len(),
            None if self.is_cut => return Err(CallProblem::Cut),
            _ => {
                self.repairs.add(MISSING_PARAMETER_END);
                end
            }
        };
        let value = &text[start..end];
        let value = value.strip_prefix('\n').unwrap_or(value);
        Ok(value.strip_suffix('\n').unwrap_or(value))
    }

    /// The value that a text stands for: text where the schema says a string or nothing else can be read.
    fn convert(&mut self, text: &str, property: Option<&Value>) -> Value {
        let types = property.map(types_of).unwrap_or_default();
        if types == ["string"] {
            return Value::from(text);
        }
        let mut repairs = Repairs::default();
        let fits = |value: &Value| match types.is_empty() {
            true => value.is_object() || value.is_array() || value.is_number(),
            false => !types.contains(&"string") || types.iter().any(|name| has_type(value, name)),
        };
        match value_of(text.trim(), &mut repairs).filter(fits) {
            Some(value) => {
                self.repairs.extend(repairs);
                value
            }
            None => Value::from(text),
        }
    }
}

/// The properties of a tool's parameters.
fn properties_of<'s>(tool: &str, schemas: &'s [Value]) -> Option<&'s Map<String, Value>> {
    let functions = schemas.iter().map(|schema| schema.get("function").unwrap_or(schema));
    let mut named = functions.filter(|function| function.get("name").and_then(Value::as_str) == Some(tool));
    named.next()?.get("parameters")?.get("properties")?.as_object()
}

/// The types that a schema allows, by name; none where it does not say.
fn types_of(property: &Value) -> Vec<&str> {
    match property.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => {
            let several = ["anyOf", "oneOf"].into_iter().filter_map(|key| property.get(key)?.as_array()).flatten();
            several.filter_map(|schema| schema.get("type")?.as_str()).collect()
        }
    }
}

/// Whether a value is of a type of JSON schema.
fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_string(),
    }
}

/// A text as JSON, or as one of Python's constants, which the template of Qwen3.5 writes.
fn value_of(text: &str, repairs: &mut Repairs) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(json_of_constant(text).unwrap_or(text)) {
        return Some(value);
    }
    let is_begun = text.starts_with(['{', '[']);
    let (value, end) = is_begun.then(|| loose_json::read(text, false, repairs).ok()).flatten()?;
    (end == text.len()).then_some(value)
}
