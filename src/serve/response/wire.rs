//! OpenAI's answers with vLLM's additions, as they are written.

use serde::Serialize;
use serde_json::Value;

use super::logprobs::{ChatLogprobs, PromptLogprobs, TextLogprobs};
use crate::rollout::trajectory::TurnKind;
use crate::sandbox::Widened;

/// Token counts of a request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of the answers.
    pub completion_tokens: usize,
    /// Tokens of prompts and answers together.
    pub total_tokens: usize,
}

/// The response to a request, or an event of a stream: the same for chats and completions, which differ in their choices.
#[derive(Debug, Serialize)]
pub struct CompletionResponse<C> {
    /// The request's id, the same in all pieces of a stream.
    pub id: String,
    /// `chat.completion`, `chat.completion.chunk` or `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that was asked for.
    pub model: String,
    /// One for each answer; in a stream those with news.
    pub choices: Vec<C>,
    /// Counts of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Of a chat, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Of a chat, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Version of the weights that the last token was sampled under; of a chat in an environment the server's version when this is sent.
    /// Moves on with every change.
    pub weights_version: u64,
}

/// A choice of a chat.
#[derive(Debug, Default, Serialize)]
pub struct ChatChoice {
    /// The answer's number, from 0.
    pub index: usize,
    /// The whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<ChatMessage>,
    /// In a stream: what is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<ChatMessage>,
    /// Where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended, once it has.
    pub finish_reason: Option<&'static str>,
    /// The stop string or token that ended it, or `nothing_allowed`.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub stop_reason: Value,
    /// Where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// For each token the version of the weights that it was sampled under, where they changed on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_versions: Option<Vec<u64>>,
    /// Of a server with an environment: all that followed the prompt; in a stream the observations, which are no part of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trajectory: Option<Vec<TrajectoryTurn>>,
    /// Of a server with an environment: the name of how it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A stretch of what followed a prompt.
#[derive(Debug, Serialize)]
pub struct TrajectoryTurn {
    /// `thought`, `call`, `observation` or `answer`.
    pub kind: TurnKind,
    /// Its text; an image is `<image>` in it.
    pub text: String,
    /// The images of an observation, as data URLs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Which of them show more than the model's crop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub widened: Vec<WidenedImage>,
    /// How many more images the model was shown that are left out here, for their size.
    #[serde(skip_serializing_if = "is_zero")]
    pub images_left_out: usize,
    /// Where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Where asked for; null for what the model did not sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Option<f32>>>,
}

/// An image that shows more than the model's crop.
#[derive(Debug, Serialize)]
pub struct WidenedImage {
    /// Its place in `images`, from 0.
    pub image: usize,
    /// `from` and `to`: left, top, right, bottom, in pixels of the picture.
    #[serde(flatten)]
    pub boxes: Widened,
}

/// What the assistant says.
#[derive(Debug, Default, Serialize)]
pub struct ChatMessage {
    /// `assistant`; in a stream in the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// What it says; `None` where there are calls only.
    pub content: Option<String>,
    /// Calls of tools; in a stream pieces of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call that the model makes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolCall {
    /// In a stream its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Unique; in a stream in the call's first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`; in a stream in the call's first piece only.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What is called.
    pub function: FunctionCall,
}

/// A function's name and arguments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunctionCall {
    /// The name; in a stream in the call's first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The arguments, as the model wrote them; in a stream what is new of them.
    pub arguments: String,
}

/// A choice of a completion.
#[derive(Debug, Serialize)]
pub struct TextChoice {
    /// Its number: those of the first prompt, then those of the second, ...
    pub index: usize,
    /// The whole answer; in a stream what is new.
    pub text: String,
    /// Where asked for.
    pub logprobs: Option<TextLogprobs>,
    /// Why it ended, once it has.
    pub finish_reason: Option<&'static str>,
    /// The stop string or token that ended it, or `nothing_allowed`.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub stop_reason: Value,
    /// Where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// For each token the version of the weights that it was sampled under, where they changed on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_versions: Option<Vec<u64>>,
    /// Where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// The answers of `/inference/v1/generate`.
#[derive(Debug, Serialize)]
pub struct TokensResponse {
    /// The id that the request brought, else one made here.
    pub request_id: String,
    /// One for each answer.
    pub choices: Vec<ChatChoice>,
    /// Where asked for.
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Version of the weights that the last token was sampled under; moves on with every change.
    pub weights_version: u64,
}
