//! The contract of a tool: what an environment lets the model call. A failure of what the model asked is an output like any other;
//! a [`ToolFault`] is a failure of the tool itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::images::TrajectoryImages;
use crate::prompt::ImageSource;
use crate::sandbox::Widened;

/// A tool, shared by all sequences.
pub trait Tool: Send + Sync {
    /// The name in recipes and logs.
    fn name(&self) -> &'static str;

    /// How a call looks, as OpenAI's API describes a function: name, description, and parameters as JSON schema. `None` for a tool whose
    /// request is no JSON.
    fn schema(&self) -> Option<Value> {
        None
    }

    /// The request of a call with these arguments, which fit the schema.
    ///
    /// # Errors
    /// When an argument lacks, in words.
    fn request(&self, arguments: &Value) -> Result<String, String> {
        Ok(arguments.to_string())
    }

    /// Calls that may run at a time; one for each core where absent. To be given by tools that wait (for a network, say) rather than
    /// compute: each call has a thread to itself.
    fn parallel_calls(&self) -> Option<usize> {
        None
    }

    /// What its results depend on besides the call: names and versions of the programs that it runs.
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// As many sessions on one task as its group has sequences. Called on a worker thread.
    ///
    /// # Errors
    /// When the task's pictures are unusable, or the tool cannot work at all.
    fn open(&self, subject: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault>;
}

/// One sequence's use of a tool; it remembers between calls.
pub trait ToolSession: Send {
    /// Runs what the model asked, on the trajectory's images so far. Called on a worker thread.
    ///
    /// # Errors
    /// When the tool itself failed, not what the model asked.
    fn run(&mut self, request: &str, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault>;

    /// Remembers what it would after [`ToolSession::run`], where the result is known: a sequence that shares the beginning of another makes that
    /// one's calls again. Called on a worker thread. A tool that remembers nothing has nothing to do.
    ///
    /// # Errors
    /// When the tool itself failed.
    fn replay(&mut self, request: &str, images: &TrajectoryImages) -> Result<(), ToolFault> {
        self.run(request, images).map(drop)
    }
}

/// A call as the model wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The tool's name.
    pub tool: String,
    /// What is asked of it, in the tool's own form: code, or JSON.
    pub request: String,
}

/// A call and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CallResult {
    /// What was asked.
    pub call: ToolCall,
    /// What came back.
    pub output: ToolOutput,
}

/// What the sessions of a task work on.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The task's original pictures, not resized.
    pub images: &'a [ImageSource],
    /// Where relative paths of `images` start.
    pub folder: &'a Path,
    /// The file name of the first picture, as the prompt gives it.
    pub image_name: &'a str,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallStatus {
    /// It ran without an error.
    Ok,
    /// It failed; the text says why.
    Error,
    /// It took too long and was stopped.
    Timeout,
    /// It was refused.
    Denied,
    /// There was no call between the tags.
    Malformed,
    /// The limit of calls was reached; it did not run.
    OverLimit,
}

impl CallStatus {
    /// All of them.
    pub const ALL: [CallStatus; 6] = [
        CallStatus::Ok,
        CallStatus::Error,
        CallStatus::Timeout,
        CallStatus::Denied,
        CallStatus::Malformed,
        CallStatus::OverLimit,
    ];

    /// The name for logs and counters, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            CallStatus::Ok => "ok",
            CallStatus::Error => "error",
            CallStatus::Timeout => "timeout",
            CallStatus::Denied => "denied",
            CallStatus::Malformed => "malformed",
            CallStatus::OverLimit => "over_limit",
        }
    }

    /// Whether it ran without an error.
    pub fn is_ok(self) -> bool {
        self == CallStatus::Ok
    }
}

/// What a call brought back.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolOutput {
    /// How it went.
    pub status: CallStatus,
    /// Text for the model.
    pub text: String,
    /// Images for the model, in order.
    pub images: Vec<ToolImage>,
    /// Time it took.
    pub seconds: f64,
    /// Repairs made to what the model asked, by name.
    pub repairs: Vec<String>,
}

impl ToolOutput {
    /// An output of text alone that took no time.
    pub fn text(status: CallStatus, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), images: Vec::new(), seconds: 0.0, repairs: Vec::new() }
    }
}

/// An image that a tool made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolImage {
    /// A plain file name, given by the tool and not by what the model asked: `image-1.png`.
    pub name: String,
    /// What the model called it, for text only.
    pub label: String,
    /// The image as the tool made it, not resized for the model.
    pub pixels: Arc<RgbImage>,
    /// Where it shows more than the model's crop.
    pub widened: Option<Widened>,
}

/// A tool that cannot work.
#[derive(Clone, Debug, Error)]
#[error("the tool {tool} failed: {reason}")]
pub struct ToolFault {
    /// The tool's name: `python` for the sandbox.
    pub tool: &'static str,
    /// Why, and the remedy.
    pub reason: String,
}
