//! A JSON object between tags: [`HERMES`] and [`TOOL_TAG`], which differ in the tags and in the key of the arguments.

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::loose_json;
use super::python_json::to_json;
use super::repairs::{ARGUMENTS_IN_STRING, ARGUMENTS_KEY, ARGUMENTS_MISSING, EXTRA_BRACES, FENCE, Repairs, STRAY_TEXT};
use super::tags::{Read, Tagged};
use super::written::CallProblem;
use crate::files::json::in_json_words;

/// JSON between `<tool_call>` and `</tool_call>`.
pub(super) const HERMES: Form = Form {
    open: "<tool_call>",
    close: "</tool_call>",
    arguments: "arguments",
    example: "<tool_call>\n{\"name\": NAME, \"arguments\": {KEY: VALUE, ...}}\n</tool_call>",
};

/// JSON between `<tool>` and `</tool>`.
pub(super) const TOOL_TAG: Form = Form {
    open: "<tool>",
    close: "</tool>",
    arguments: "args",
    example: "<tool>{\"name\": NAME, \"args\": {KEY: VALUE, ...}}</tool>",
};

/// Keys under which some form has the arguments.
const ARGUMENTS_KEYS: [&str; 3] = ["arguments", "args", "parameters"];

/// The least backticks that are a fence.
const FENCE_MARK: &str = "```";

/// Tags and keys.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
    /// The key of the arguments.
    arguments: &'static str,
    pub(super) example: &'static str,
}

impl Form {
    /// A call with `space` within its tags. The tags in its strings are escaped, so that they stop no generation.
    pub(super) fn write(self, tool: &str, arguments: &Map<String, Value>, space: &str) -> String {
        let json = to_json(&json!({"name": tool, self.arguments: arguments}));
        let escape = |json: String, tag: &str, first: &str| json.replace(tag, &format!("{first}{}", &tag[1..]));
        // In a JSON text `<` stands in strings only.
        let json = escape(escape(json, self.open, "\\u003c"), self.close, "\\u003c");
        format!("{}{space}{json}{space}{}", self.open, self.close)
    }

    /// The name and the arguments of an object.
    fn call(self, object: Value, repairs: &mut Repairs) -> Result<(String, Map<String, Value>), CallProblem> {
        let Value::Object(mut object) = object else { return Err(CallProblem::NotAnObject(self.example)) };
        let tool = match object.remove("name") {
            Some(Value::String(name)) if !name.is_empty() => name,
            _ => return Err(CallProblem::NoName(self.example)),
        };
        let own = self.arguments;
        let other = ARGUMENTS_KEYS.into_iter().find(|key| *key != own && object.contains_key(*key));
        let arguments = object.remove(own).or_else(|| {
            repairs.add(other.map_or(ARGUMENTS_MISSING, |_| ARGUMENTS_KEY));
            object.remove(other?)
        });
        Ok((tool, self.arguments_of(arguments.unwrap_or_default(), repairs)?))
    }

    fn arguments_of(self, written: Value, repairs: &mut Repairs) -> Result<Map<String, Value>, CallProblem> {
        match written {
            Value::Object(arguments) => Ok(arguments),
            Value::Null => {
                repairs.add(ARGUMENTS_MISSING);
                Ok(Map::new())
            }
            Value::String(text) if text.trim().is_empty() => self.arguments_of(Value::Null, repairs),
            Value::String(text) => {
                let text = text.trim();
                let mut inner = Repairs::default();
                match loose_json::read(text, false, &mut inner) {
                    Ok((Value::Object(arguments), end)) if end == text.len() => {
                        repairs.add(ARGUMENTS_IN_STRING);
                        repairs.extend(inner);
                        Ok(arguments)
                    }
                    _ => Err(CallProblem::ArgumentsNotAnObject("a string")),
                }
            }
            other => Err(CallProblem::of_arguments(&other)),
        }
    }
}

/// A form, as [`super::tags`] reads it.
pub(super) struct TaggedJson(pub(super) Form);

impl Tagged for TaggedJson {
    fn tags(&self) -> [&'static str; 2] {
        [self.0.open, self.0.close]
    }

    fn reach(&self, text: &str, inside: usize) -> usize {
        let (start, _) = start_of_json(&text[inside..]);
        let rest = &text[inside + start..];
        let end = rest.starts_with('{').then(|| loose_json::end_of_value(rest)).flatten();
        end.map_or(inside, |end| inside + start + end)
    }

    fn is_begun(&self, inside: &str) -> bool {
        let rest = &inside[start_of_json(inside).0..];
        rest.starts_with('{') || rest.starts_with("<function=")
    }

    fn read(&self, inside: &str, is_closed: bool) -> Result<Read, CallProblem> {
        let mut repairs = Repairs::default();
        let (start, is_fenced) = start_of_json(inside);
        if is_fenced {
            repairs.add(FENCE);
        }
        let text = &inside[start..];
        if !text.starts_with('{') {
            return Err(no_object(text.trim_end(), self.0.example));
        }
        let (object, end) = loose_json::read(text, !is_closed, &mut repairs)?;
        let end = start + end + rest_of_json(&text[end..], &mut repairs);
        if follows_json(&inside[end..])? && is_closed {
            repairs.add(STRAY_TEXT);
        }
        let (tool, arguments) = self.0.call(object, &mut repairs)?;
        Ok(Read { tool, arguments, repairs, end })
    }
}

/// The byte at which the JSON begins, behind white space and the line of a fence, and whether there is a fence.
fn start_of_json(inside: &str) -> (usize, bool) {
    let rest = inside.trim_start();
    let is_fenced = rest.starts_with(FENCE_MARK);
    let rest = match is_fenced {
        true => rest.trim_start_matches('`').trim_start_matches(|c: char| c.is_ascii_alphanumeric()).trim_start(),
        false => rest,
    };
    (inside.len() - rest.len(), is_fenced)
}

/// Bytes behind the object that belong to it: braces too many, and the end of a fence.
fn rest_of_json(behind: &str, repairs: &mut Repairs) -> usize {
    let mut rest = behind;
    while let Some(next) = rest.trim_start().strip_prefix('}') {
        repairs.add(EXTRA_BRACES);
        rest = next;
    }
    if rest.trim_start().starts_with(FENCE_MARK) {
        repairs.add(FENCE);
        rest = rest.trim_start().trim_start_matches('`');
    }
    behind.len() - rest.len()
}

/// Whether words follow the object; an error where they may be a part of the call, or another.
fn follows_json(behind: &str) -> Result<bool, CallProblem> {
    let behind = behind.trim();
    match behind.chars().next() {
        None => Ok(false),
        Some('{' | '[') => Err(CallProblem::SeveralCalls),
        Some(',') if behind[1..].trim_start().starts_with('{') => Err(CallProblem::SeveralCalls),
        Some(',' | ':' | '"') => Err(CallProblem::NotJson("goes on behind the brace that ends its object".to_owned())),
        Some(_) => Ok(true),
    }
}

/// What is wrong with a text that does not begin as an object.
fn no_object(text: &str, example: &'static str) -> CallProblem {
    if text.starts_with("<function=") {
        return CallProblem::OtherForm(example);
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => CallProblem::NotAnObject(example),
        Err(_) if text.is_empty() => CallProblem::NotJson("is empty".to_owned()),
        Err(error) => CallProblem::NotJson(in_json_words(&error)),
    }
}
