//! What to train on: the embedded task *needle*, and Thyme's JSONL files. A leaf, so
//! it knows pictures and text, but nothing of tokens, sandboxes or rewards.
//! `forms.rs` recognises the forms of other systems, so that an error can name the form of a row and say how to convert it.

mod data_error;
mod draws;
mod font;
pub mod forms;
pub mod jsonl;
pub mod needle;
mod needle_file;
pub mod preferences;
mod row;
mod solution;

use image::RgbImage;
use serde::{Deserialize, Serialize};

pub use solution::{Accepted, Solution, Tolerance};

/// Who speaks in a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model, which answers.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The role of that name.
    pub fn of(name: &str) -> Option<Role> {
        [Role::System, Role::User, Role::Assistant, Role::Tool].into_iter().find(|role| role.as_str() == name)
    }

    /// The role's name in chat templates and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One message of a conversation; each literal `<image>` in `text` stands for the next picture of the example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The one who says it.
    pub role: Role,
    /// What is said, with `<image>` placeholders.
    #[serde(rename = "content")]
    pub text: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Message { role, text: text.into() }
    }
}

/// One thing to train on or to be examined on: a conversation with its pictures.
///
/// With a `solution` it is a task of reinforcement learning (the messages end with the user's); without, a demonstration: the
/// last message is the assistant's. What others say, and what stands between `<sandbox_output>` and `</sandbox_output>`, markers included,
/// is observation and not to be learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// The pictures in the order of their placeholders, in original pixels.
    pub images: Vec<RgbImage>,
    /// The right answer, as the answer tag should hold it.
    pub solution: Option<Solution>,
    /// The bare question, for judges and logs.
    pub question: Option<String>,
    /// Schemas of tools, which the chat template describes to the model.
    pub tools: Option<serde_json::Value>,
}
