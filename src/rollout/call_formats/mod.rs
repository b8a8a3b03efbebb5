//! The forms in which models write tool calls: a call found in a text, and a call written as a model should write it. Names in recipes are
//! those of vLLM's parsers where it has one. `<code>` has a reader of its own, [`super::call`].
//!
//! Slips that leave no doubt about what is meant are repaired, and each repair is named in [`WrittenCall::repairs`]: `fence`,
//! `arguments_key` (`parameters`, `args` and `arguments` for one another), `arguments_in_string`, `arguments_missing`, `extra_braces`,
//! `missing_braces`, `trailing_comma`, `unescaped_control`, `single_quotes`, `python_constants`, `missing_opening_tag`, `missing_closing_tag`,
//! `missing_parameter_end`, `missing_function_end`, `stray_text`. Everything else is a [`MalformedCall`], in words for the model. A text of
//! any kind is read in time that is linear in it.

mod actions;
mod loose_json;
mod python_json;
mod qwen3_coder;
mod repairs;
mod tagged_json;
mod tags;
mod written;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tagged_json::TaggedJson;

pub use written::{CallProblem, FoundCall, MalformedCall, WrittenCall};

/// A form in which calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallFormat {
    /// JSON between `<tool_call>` and `</tool_call>`, as Hermes, Qwen2.5 and Qwen3 write it; `hermes` in vLLM.
    Hermes,
    /// `<function=NAME>` with a `<parameter=KEY>` for each argument, between `<tool_call>` and `</tool_call>`, as Qwen3-Coder and Qwen3.5 write
    /// it; `qwen3_coder` in vLLM.
    Qwen3Coder,
    /// JSON with `args` between `<tool>` and `</tool>`, of verifiers' vision environment.
    ToolTag,
    /// JSON with a list `actions`, anywhere in the text, of OpenThinkIMG. The last such list counts, and each of its entries is a call.
    Actions,
}

impl CallFormat {
    /// What opens a call; `None` where no tag does.
    pub fn open_tag(self) -> Option<&'static str> {
        match self {
            CallFormat::Hermes => Some(tagged_json::HERMES.open),
            CallFormat::Qwen3Coder => Some(qwen3_coder::OPEN),
            CallFormat::ToolTag => Some(tagged_json::TOOL_TAG.open),
            CallFormat::Actions => None,
        }
    }

    /// What closes a call, to be a stop string; `None` where no tag does.
    pub fn close_tag(self) -> Option<&'static str> {
        match self {
            CallFormat::Hermes => Some(tagged_json::HERMES.close),
            CallFormat::Qwen3Coder => Some(qwen3_coder::CLOSE),
            CallFormat::ToolTag => Some(tagged_json::TOOL_TAG.close),
            CallFormat::Actions => None,
        }
    }

    /// How a call looks, as [`CallProblem`] shows it to the model.
    pub fn example(self) -> &'static str {
        match self {
            CallFormat::Hermes => tagged_json::HERMES.example,
            CallFormat::Qwen3Coder => qwen3_coder::EXAMPLE,
            CallFormat::ToolTag => tagged_json::TOOL_TAG.example,
            CallFormat::Actions => actions::EXAMPLE,
        }
    }

    /// The calls in `text`, in its order. `schemas`, in OpenAI's form of a function, give [`CallFormat::Qwen3Coder`] the types of its
    /// parameters; a value of a parameter without one is a string unless it is a number, a list or an object.
    ///
    /// Of several opening tags before a closing one the last opens the call, for the others are only talked about, unless an earlier one's
    /// strings hold the later ones. A text that ends within an argument is malformed, for what was cut off may matter.
    pub fn find_calls(self, text: &str, schemas: &[Value]) -> Vec<FoundCall> {
        match self {
            CallFormat::Hermes => tags::find_calls(text, &TaggedJson(tagged_json::HERMES)),
            CallFormat::Qwen3Coder => qwen3_coder::find_calls(text, schemas),
            CallFormat::ToolTag => tags::find_calls(text, &TaggedJson(tagged_json::TOOL_TAG)),
            CallFormat::Actions => actions::find_calls(text),
        }
    }

    /// The call as a model should write it. [`CallFormat::find_calls`] reads it back to the same, in [`CallFormat::Qwen3Coder`] with a
    /// schema that gives each argument's type, and unless a string holds one of that form's own tags, which it cannot escape.
    pub fn write(self, tool: &str, arguments: &Map<String, Value>) -> String {
        match self {
            CallFormat::Hermes => tagged_json::HERMES.write(tool, arguments, "\n"),
            CallFormat::Qwen3Coder => qwen3_coder::write(tool, arguments),
            CallFormat::ToolTag => tagged_json::TOOL_TAG.write(tool, arguments, ""),
            CallFormat::Actions => actions::write(tool, arguments),
        }
    }
}
