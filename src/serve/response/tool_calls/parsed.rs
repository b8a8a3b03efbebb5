//! What a reader gives out: text, and of calls what is new.

use crate::serve::response::wire::{FunctionCall, ToolCall};

/// What was read from a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The text outside of calls, without the marks.
    pub text: String,
    /// What is new of the calls, in order: the name of one that begins, the arguments as they grow. Ids are not made here.
    pub tool_calls: Vec<ToolCall>,
}

impl Parsed {
    /// A call begins.
    pub(super) fn begin(&mut self, index: usize, name: String) {
        let function = FunctionCall { name: Some(name), arguments: String::new() };
        self.tool_calls.push(ToolCall { index: Some(index), id: None, kind: None, function });
    }

    /// More of the arguments of a call.
    pub(super) fn add_arguments(&mut self, index: usize, arguments: String) {
        let function = FunctionCall { name: None, arguments };
        extend_calls(&mut self.tool_calls, vec![ToolCall { index: Some(index), id: None, kind: None, function }]);
    }
}

/// Appends what is new of calls.
pub fn extend_calls(calls: &mut Vec<ToolCall>, new: Vec<ToolCall>) {
    for call in new {
        match calls.last_mut() {
            Some(last) if last.index == call.index => last.function.arguments.push_str(&call.function.arguments),
            _ => calls.push(call),
        }
    }
}
