//! OpenThinkIMG's form: `{"thought": ..., "actions": [{"name": ..., "arguments": {...}}]}`, with words around it or not. As there, the
//! list counts and not the object around it; it is JSON to the letter. Of several the last counts, and of nested ones the outermost.

use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::python_json::to_json;
use super::written::{CallProblem, FoundCall, MalformedCall, WrittenCall};
use crate::files::json::in_json_words;

/// How a call looks.
pub(super) const EXAMPLE: &str =
    "{\"thought\": TEXT, \"actions\": [{\"name\": NAME, \"arguments\": {KEY: VALUE, ...}}]}";

/// The key of the list.
const KEY: &str = "\"actions\"";

/// The calls of a text: each entry of the last list.
pub(super) fn find_calls(text: &str) -> Vec<FoundCall> {
    let Some(list) = last_list(text) else { return Vec::new() };
    let entries: Vec<&RawValue> = match serde_json::from_str(&text[list.clone()]) {
        Ok(entries) => entries,
        Err(error) if error.is_eof() => return vec![Err(MalformedCall { span: list, problem: CallProblem::Cut })],
        Err(error) => {
            let problem = CallProblem::NotJson(in_json_words(&error));
            return vec![Err(MalformedCall { span: list, problem })];
        }
    };
    let start = |entry: &RawValue| entry.get().as_ptr() as usize - text.as_ptr() as usize;
    entries.into_iter().map(|entry| read_entry(entry.get(), start(entry))).collect()
}

/// An object with the list alone.
pub(super) fn write(tool: &str, arguments: &Map<String, Value>) -> String {
    to_json(&json!({"actions": [{"name": tool, "arguments": arguments}]}))
}

/// An entry of the list, which begins at byte `start` of the text.
fn read_entry(entry: &str, start: usize) -> FoundCall {
    let span = start..start + entry.len();
    let read = || {
        let value = serde_json::from_str(entry).map_err(|error| CallProblem::NotJson(in_json_words(&error)))?;
        let Value::Object(mut object) = value else { return Err(CallProblem::NotAnObject(EXAMPLE)) };
        let tool = match object.remove("name") {
            Some(Value::String(name)) if !name.is_empty() => name,
            _ => return Err(CallProblem::NoName(EXAMPLE)),
        };
        match object.remove("arguments") {
            Some(Value::Object(arguments)) => Ok((tool, arguments)),
            Some(other) => Err(CallProblem::of_arguments(&other)),
            None => Err(CallProblem::NoArguments(EXAMPLE)),
        }
    };
    match read() {
        Ok((tool, arguments)) => Ok(WrittenCall { span, tool, arguments, repairs: Vec::new() }),
        Err(problem) => Err(MalformedCall { span, problem }),
    }
}

/// The bytes of the last list, to the end of the text where its brackets do not close.
fn last_list(text: &str) -> Option<Range<usize>> {
    let mut lists = Lists::default();
    let bytes = text.as_bytes();
    let (mut at, mut is_in_string) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => match list_start(text, at) {
                // Words with a quote too many stand before it.
                Some(start) => {
                    if std::mem::take(&mut is_in_string) {
                        lists.give_up();
                    }
                    lists.open.push((b']', start, true));
                    at = start;
                }
                None => is_in_string = !is_in_string,
            },
            b'\\' if is_in_string => at += 1,
            // A string of words, for no JSON string has a line break.
            b'\n' if is_in_string => {
                is_in_string = false;
                lists.give_up();
            }
            _ if is_in_string => {}
            b'{' => lists.open.push((b'}', at, false)),
            b'[' => lists.open.push((b']', at, false)),
            b'}' | b']' => lists.close(byte, at + 1),
            _ => {}
        }
        at += 1;
    }
    lists.give_up();
    let unclosed = lists.unclosed.map(|start| start..text.len());
    lists.whole.pop().into_iter().chain(unclosed).max_by_key(|list| list.start)
}

/// Where a list begins whose key begins at byte `at`.
fn list_start(text: &str, at: usize) -> Option<usize> {
    let behind = text[at..].strip_prefix(KEY)?.trim_start().strip_prefix(':')?.trim_start();
    behind.starts_with('[').then(|| text.len() - behind.len())
}

/// Lists under the key.
#[derive(Default)]
struct Lists {
    /// Brackets that are open: what closes each, where it stands, and whether it is such a list.
    open: Vec<(u8, usize, bool)>,
    /// Those that were closed, without those inside others.
    whole: Vec<Range<usize>>,
    /// Where the last begins that was not.
    unclosed: Option<usize>,
}

impl Lists {
    fn close(&mut self, bracket: u8, end: usize) {
        let Some((closing, start, is_list)) = self.open.pop() else { return };
        if closing != bracket {
            self.open.push((closing, start, is_list));
            self.give_up();
        } else if is_list {
            self.whole.truncate(self.whole.partition_point(|inner| inner.start < start));
            self.whole.push(start..end);
        }
    }

    /// Nothing that is open will be closed.
    fn give_up(&mut self) {
        let last = self.open.drain(..).rev().find(|(_, _, is_list)| *is_list);
        self.unclosed = last.map(|(_, start, _)| start).or(self.unclosed);
    }
}
