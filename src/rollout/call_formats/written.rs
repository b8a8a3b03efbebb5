//! What is found in a text: a call, or what is wrong with one.

use std::ops::Range;

use serde_json::{Map, Value};
use thiserror::Error;

/// What stands where a call was begun.
pub type FoundCall = Result<WrittenCall, MalformedCall>;

/// A call in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenCall {
    /// Its bytes in the text, with its tags; of an entry of `actions` those of the entry.
    pub span: Range<usize>,
    /// The tool that it names.
    pub tool: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
    /// What was repaired, by name, each once.
    pub repairs: Vec<&'static str>,
}

/// What was meant to be a call and is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct MalformedCall {
    /// Its bytes in the text, with its tags; to the end where it has no closing one.
    pub span: Range<usize>,
    /// What is wrong.
    pub problem: CallProblem,
}

/// Why a call cannot be read, in words for the model: what is wrong, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallProblem {
    /// What stands in the place of the JSON is none: how, as the rest of a sentence.
    #[error("the call {0}; write one JSON object, and escape quotes and line breaks in its strings")]
    NotJson(String),
    /// It is JSON, but no object: how a call looks.
    #[error("the call is JSON but no object; write {0}")]
    NotAnObject(&'static str),
    /// It names no tool: how a call looks.
    #[error("the call names no tool; write {0}")]
    NoName(&'static str),
    /// The arguments are missing where they may not be: how a call looks.
    #[error("the call has no \"arguments\"; write {0}")]
    NoArguments(&'static str),
    /// The arguments are something else: what.
    #[error("the arguments are {0}, not an object; write an object with a key for each argument, or {{}}")]
    ArgumentsNotAnObject(&'static str),
    /// It is written in another form: how a call looks.
    #[error("the call is written in another form than the one that is read; write {0}")]
    OtherForm(&'static str),
    /// Two calls stand between two tags.
    #[error("more than one call stands between the tags; write each between tags of its own")]
    SeveralCalls,
    /// The text ends within the call.
    #[error("the text ends before the call does; write the call to its end")]
    Cut,
}

impl CallProblem {
    /// That arguments are no object.
    pub(super) fn of_arguments(arguments: &Value) -> CallProblem {
        CallProblem::ArgumentsNotAnObject(match arguments {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        })
    }
}
