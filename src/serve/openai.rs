//! The wire types: what the generating routes are asked, and OpenAI's answers with vLLM's additions.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::answer_logprobs::{ChatLogprobs, PromptLogprobs, TextLogprobs};
use super::fields::{Whole, optional_object, optional_wholes, whole, with_whole_floats};
use crate::files::json::in_json_words;
use crate::prompt::PixelLimits;
use crate::rollout::transcript::TurnKind;
use crate::sandbox::Widened;

/// What the generating routes may be asked: OpenAI's fields and those of vLLM. One type serves them all; a route reads what it knows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, expecting = "a JSON object")]
pub struct Request {
    /// The name that the model is served under.
    pub model: Option<String>,
    /// The conversation of a chat: objects with `role` and `content`.
    pub messages: Option<Vec<Value>>,
    /// A text, token ids, or a list of either.
    pub prompt: Option<Value>,
    /// Send tokens as they come.
    pub stream: Option<bool>,
    /// What a stream also brings.
    #[serde(deserialize_with = "optional_object")]
    pub stream_options: Option<StreamOptions>,
    /// Answers to each prompt.
    #[serde(deserialize_with = "whole")]
    pub n: Option<usize>,
    /// The same seed gives the same answer; -1 is another each time.
    #[serde(deserialize_with = "whole")]
    pub seed: Option<i64>,
    /// 0 takes the likeliest token.
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens with at least this mass.
    pub top_p: Option<f32>,
    /// Keep the likeliest tokens; 0 or -1 keeps all.
    #[serde(deserialize_with = "whole")]
    pub top_k: Option<i64>,
    /// Keep tokens of at least this share of the likeliest's probability.
    pub min_p: Option<f32>,
    /// Above 1 makes tokens that are in the sequence less likely.
    pub repetition_penalty: Option<f32>,
    /// Above 0 makes tokens that are in the answer less likely.
    pub presence_penalty: Option<f32>,
    /// Above 0 makes tokens less likely each time that they are in the answer.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of tokens, which are named by their ids; kept between -100 and 100.
    pub logit_bias: Option<Map<String, Value>>,
    /// Texts that the answer must not have.
    pub bad_words: Option<Vec<String>>,
    /// The only tokens that may be sampled.
    #[serde(deserialize_with = "optional_wholes")]
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Tokens of an answer.
    #[serde(deserialize_with = "whole")]
    pub max_tokens: Option<usize>,
    /// The same under its newer name, which wins.
    #[serde(deserialize_with = "whole")]
    pub max_completion_tokens: Option<usize>,
    /// Tokens of an answer before anything may end it.
    #[serde(deserialize_with = "whole")]
    pub min_tokens: Option<usize>,
    /// A text that ends an answer, or several.
    pub stop: Option<Value>,
    /// Tokens that end an answer.
    #[serde(deserialize_with = "optional_wholes")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Leave the text or token that ended an answer in it.
    pub include_stop_str_in_output: Option<bool>,
    /// Go on after the end of a turn.
    pub ignore_eos: Option<bool>,
    /// Leave markup such as `<|im_end|>` out of the text.
    pub skip_special_tokens: Option<bool>,
    /// In a chat whether log-probabilities are wanted, else how many of the likeliest tokens besides the sampled one.
    pub logprobs: Option<LogprobsAsked>,
    /// In a chat how many of the likeliest tokens; -1 for all.
    #[serde(deserialize_with = "whole")]
    pub top_logprobs: Option<i64>,
    /// Log-probabilities of the prompt, and of this many of the likeliest tokens at each position.
    #[serde(deserialize_with = "whole")]
    pub prompt_logprobs: Option<i64>,
    /// Begin the text with the prompt.
    pub echo: Option<bool>,
    /// Give the tokens' ids.
    pub return_token_ids: Option<bool>,
    /// Write `token_id:N` in place of a token's text.
    pub return_tokens_as_token_ids: Option<bool>,
    /// What the answer looks like: `{"type": ...}` with `text`, `json_object`, or `json_schema` and `json_schema.schema`.
    pub response_format: Option<Value>,
    /// The same in vLLM's words: an object with `json`, `json_object`, `regex`, `choice` or `grammar`.
    pub structured_outputs: Option<Value>,
    /// The same in older words of vLLM: a JSON schema.
    pub guided_json: Option<Value>,
    /// A regular expression.
    pub guided_regex: Option<Value>,
    /// Texts to choose from.
    pub guided_choice: Option<Value>,
    /// A grammar in Lark's notation.
    pub guided_grammar: Option<Value>,
    /// Only 1 is supported.
    #[serde(deserialize_with = "whole")]
    pub best_of: Option<usize>,
    /// Not supported; must be empty.
    pub suffix: Option<String>,
    /// What the model may call.
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required` or a function.
    pub tool_choice: Option<Value>,
    /// Whether `required` may bring several calls; true without it.
    pub parallel_tool_calls: Option<bool>,
    /// Open the assistant's turn; true without it.
    pub add_generation_prompt: Option<bool>,
    /// Go on with the last message.
    pub continue_final_message: Option<bool>,
    /// In place of the server's own, where it trusts requests with that.
    pub chat_template: Option<String>,
    /// More variables of the template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// How pictures are resized.
    #[serde(deserialize_with = "with_whole_floats")]
    pub mm_processor_kwargs: Option<PixelLimits>,
    /// Of a server with an environment: the temperature inside code; 0 without it.
    pub code_temperature: Option<f32>,
    /// Of `/tokenize`: the tokens' texts too.
    pub return_token_strs: Option<bool>,
}

/// What a stream also brings.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct StreamOptions {
    /// The counts of tokens in a last chunk.
    pub include_usage: Option<bool>,
}

/// `logprobs` of a chat or of a completion.
#[derive(Clone, Copy, Debug)]
pub enum LogprobsAsked {
    /// True where log-probabilities are wanted.
    Whether(bool),
    /// How many of the likeliest.
    Count(i64),
}

impl<'de> Deserialize<'de> for LogprobsAsked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LogprobsAsked, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(whether) => Ok(LogprobsAsked::Whether(whether)),
            number @ Value::Number(_) => match serde_json::from_value::<Whole<i64>>(number) {
                Ok(count) => Ok(LogprobsAsked::Count(count.0)),
                Err(error) => Err(D::Error::custom(in_json_words(&error))),
            },
            _ => Err(D::Error::custom("must be true, false or a whole number")),
        }
    }
}

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

/// An answer, or a piece of one in a stream: the same for chats and completions, which differ in their choices.
#[derive(Debug, Serialize)]
pub struct Answer<C> {
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
pub struct TokenAnswer {
    /// The id that the request brought, else one made here.
    pub request_id: String,
    /// One for each answer.
    pub choices: Vec<ChatChoice>,
    /// Where asked for.
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// Version of the weights that the last token was sampled under; moves on with every change.
    pub weights_version: u64,
}

/// The form of a route's answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ResponseKind {
    /// Messages, for `/v1/chat/completions`.
    #[default]
    Chat,
    /// Text, for `/v1/completions`.
    Text,
    /// Tokens only, never in pieces.
    Tokens,
}
