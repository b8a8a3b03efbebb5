//! What the generating routes are sent, as it is written: OpenAI's fields with vLLM's additions. Routes hand these types over as they are; only
//! this folder reads them. [`Features`] goes both ways: one route writes what another is sent.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::fields::{Whole, object, optional_object, optional_wholes, whole, whole_number, wholes, with_whole_floats};
use crate::files::json::in_json_words;
use crate::prompt::PixelLimits;

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

/// What `/inference/v1/generate` may be asked: token ids to go on from.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
pub struct TokensRequest {
    /// The name that the model is served under.
    pub model: Option<String>,
    /// The id of the answers; else one is made.
    pub request_id: Option<String>,
    /// The prompt, placeholders of pictures among it.
    #[serde(deserialize_with = "wholes")]
    pub token_ids: Vec<u32>,
    /// The prompt's pictures.
    #[serde(default, deserialize_with = "optional_object")]
    pub features: Option<Features>,
    /// How tokens are sampled, in the fields of the other routes.
    #[serde(default, deserialize_with = "object")]
    pub sampling_params: Request,
}

/// A conversation's pictures, on their way through a client that only hands them back.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub struct Features {
    /// Their addresses.
    pub images: Vec<String>,
    /// The sizes that the messages ask for them, in the messages' own keys or null; of all or of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_sizes: Vec<Value>,
    /// How all of them are resized.
    #[serde(default, deserialize_with = "with_whole_floats")]
    pub mm_processor_kwargs: Option<PixelLimits>,
    /// Where they are in the prompt, for clients that look; when handed back, the token ids say it.
    #[serde(default, deserialize_with = "object")]
    pub mm_placeholders: Placeholders,
}

/// Runs of picture placeholders.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub struct Placeholders {
    /// A run for each picture.
    pub image: Vec<Run>,
}

/// The placeholders of one picture.
#[derive(Debug, Deserialize, Serialize)]
#[serde(expecting = "an object with offset and length")]
pub struct Run {
    /// The first placeholder's place in the prompt.
    #[serde(deserialize_with = "whole_number")]
    pub offset: usize,
    /// How many there are.
    #[serde(deserialize_with = "whole_number")]
    pub length: usize,
}
