//! From a request's fields to how tokens are sampled, when answers end and what is told of them, every value checked.

use serde_json::Value;

use super::token_bytes::TokenBytes;
use super::wire::{LogprobsAsked, Request};
use crate::engine::request::{Sampling, Stops};
use crate::serve::error::ApiError;

/// Answers to all prompts of a request at most.
const ANSWERS_MAX: usize = 4096;
/// Stop strings and stop tokens of a request at most, and bytes of a string.
const STOPS_MAX: usize = 64;
const STOP_BYTES_MAX: usize = 1024;
/// The seed that means none, as in vLLM.
const RANDOM_SEED: i64 = -1;
/// Lower positive temperatures are raised to this one, as in vLLM.
const TEMPERATURE_MIN: f32 = 0.01;

/// How answers are given out.
#[derive(Clone, Debug)]
pub struct ResponseOptions {
    /// Messages, text or tokens.
    pub kind: ResponseKind,
    /// Their id.
    pub id: String,
    /// The name that the model was called by.
    pub model: String,
    /// In pieces, as server-sent events.
    pub stream: bool,
    /// A stream ends with the counts of tokens.
    pub include_usage: bool,
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

/// Which log-probability of a sampled token is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogprobsMode {
    /// At temperature 1 over the whole vocabulary.
    #[default]
    RawLogprobs,
    /// Under the distribution that it was sampled from: after penalties, bias, mask, temperature and cuts.
    ProcessedLogprobs,
}

impl LogprobsMode {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            LogprobsMode::RawLogprobs => "raw_logprobs",
            LogprobsMode::ProcessedLogprobs => "processed_logprobs",
        }
    }
}

/// Server-wide defaults and limits.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// Tokens of an answer, if the checkpoint says.
    pub max_tokens: Option<usize>,
    /// Tokens that end a turn.
    pub eos: Vec<u32>,
    /// Tokens that the model does not write: placeholders of pictures.
    pub placeholders: Vec<u32>,
    /// Tokens of a prompt with its answer.
    pub context_tokens: usize,
    /// Ids of the vocabulary.
    pub vocab: usize,
    /// Which log-probabilities are returned.
    pub logprobs_mode: LogprobsMode,
    /// How many of the likeliest tokens may be asked for in a place; none for any number.
    pub max_logprobs: Option<usize>,
    /// How large tokens are on the wire.
    pub token_bytes: TokenBytes,
}

/// A request's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// When answers end; the tokens of an answer are filled in for each prompt.
    pub stops: Stops,
    /// Tokens of an answer, if the request says; else [`Defaults::max_tokens`].
    pub max_tokens: Option<usize>,
    /// Answers to each prompt.
    pub n: usize,
    /// Seed, if the request says.
    pub seed: Option<u64>,
    /// Leave the stop in the text.
    pub include_stop: bool,
    /// Leave special tokens out of the text.
    pub skip_special: bool,
    /// Tokens' log-probabilities are wanted, and those of this many of the likeliest.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt, with this many of the likeliest.
    pub prompt_logprobs: Option<usize>,
    /// A completion's text begins with the prompt.
    pub echo: bool,
    /// The request can steer token choice, which affects size estimates.
    pub chooses_tokens: bool,
    /// Ids are wanted.
    pub token_ids: bool,
    /// Write `token_id:N` in place of a token's text.
    pub tokens_as_ids: bool,
    /// What becomes of calls in the text.
    pub tool_calls: ToolCalls,
}

/// What becomes of calls in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ToolCalls {
    /// There are no tools: the text is given out as it is.
    #[default]
    Ignored,
    /// Tools are shown, but none may be called: marks of calls are left out of the text.
    Unmarked,
    /// They are given out as calls.
    Read,
}

impl Defaults {
    /// The settings of a request of that kind.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn settings(&self, request: &Request, kind: ResponseKind, tool_calls: ToolCalls) -> Result<Settings, ApiError> {
        refuse_unsupported(request)?;
        let n = request.n.unwrap_or(1);
        check("n", n, (1..=ANSWERS_MAX).contains(&n), &format!("between 1 and {ANSWERS_MAX}"))?;
        let (param, max_tokens) = match request.max_completion_tokens {
            Some(tokens) => ("max_completion_tokens", Some(tokens)),
            None => ("max_tokens", request.max_tokens),
        };
        let echo = request.echo.unwrap_or(false);
        if echo && kind != ResponseKind::Text {
            return Err(ApiError::field(
                "echo",
                "has no effect on this route; leave it out, or send the prompt to /v1/completions",
            ));
        }
        if let Some(tokens) = max_tokens {
            let scores = echo || request.prompt_logprobs.is_some();
            check(param, tokens, tokens > 0 || scores, "1 or more; with echo or prompt_logprobs it may be 0")?;
        }
        let logprobs = self.logprobs(request)?;
        let asked = request
            .prompt_logprobs
            .map(|count| self.top_logprobs_count("prompt_logprobs", "prompt", count))
            .transpose()?;
        if asked.is_some() && request.stream.unwrap_or(false) {
            return Err(ApiError::field("prompt_logprobs", "cannot be streamed; send stream = false"));
        }
        let gives_tokens = kind == ResponseKind::Tokens;
        Ok(Settings {
            sampling: self.sampling(request)?,
            stops: self.stops(request)?,
            max_tokens,
            n,
            seed: request.seed.filter(|seed| *seed != RANDOM_SEED).map(|seed| seed as u64),
            include_stop: request.include_stop_str_in_output.unwrap_or(false),
            skip_special: request.skip_special_tokens.unwrap_or(true),
            logprobs,
            prompt_logprobs: asked.or(logprobs.filter(|_| echo)),
            echo,
            chooses_tokens: request.allowed_token_ids.is_some()
                || request
                    .logit_bias
                    .as_ref()
                    .is_some_and(|bias| bias.values().any(|value| value.as_f64() > Some(0.0))),
            token_ids: gives_tokens || request.return_token_ids.unwrap_or(false),
            tokens_as_ids: gives_tokens || request.return_tokens_as_token_ids.unwrap_or(false),
            tool_calls,
        })
    }

    /// Checks that the answers to this many prompts are not too many.
    ///
    /// # Errors
    /// When they are.
    pub fn check_answers(&self, prompts: usize, settings: &Settings) -> Result<(), ApiError> {
        let answers = prompts.saturating_mul(settings.n);
        check("prompt", format!("{answers} answers"), answers <= ANSWERS_MAX, &format!("at most {ANSWERS_MAX} with n"))
    }

    /// Tokens that an answer to a prompt of `prompt` tokens may have.
    pub fn answer_tokens(&self, settings: &Settings, prompt: usize) -> usize {
        let room = self.context_tokens - prompt;
        settings.max_tokens.or(self.max_tokens).map_or(room, |tokens| tokens.min(room))
    }

    /// Whether tokens' log-probabilities are wanted, and how many of the likeliest.
    fn logprobs(&self, request: &Request) -> Result<Option<usize>, ApiError> {
        let top =
            request.top_logprobs.map(|count| self.top_logprobs_count("top_logprobs", "sample", count)).transpose()?;
        let asked = match request.logprobs {
            None | Some(LogprobsAsked::Whether(false)) if top.unwrap_or(0) > 0 => {
                return Err(ApiError::field("top_logprobs", "needs logprobs = true beside it"));
            }
            None | Some(LogprobsAsked::Whether(false)) => None,
            Some(LogprobsAsked::Whether(true)) => Some(top.unwrap_or(0)),
            Some(LogprobsAsked::Count(count)) => Some(self.top_logprobs_count("logprobs", "sample", count)?),
        };
        Ok(asked)
    }

    /// A number of the likeliest tokens; -1 is all.
    fn top_logprobs_count(&self, param: &str, what: &str, count: i64) -> Result<usize, ApiError> {
        let asked = if count == -1 { Ok(self.vocab) } else { usize::try_from(count) };
        let asked = asked
            .map_err(|_| ApiError::field(param, format!("is {count}; it must be 0 or more, or -1 for all tokens")))?;
        match self.max_logprobs.filter(|max| asked > *max) {
            None => Ok(asked.min(self.vocab)),
            Some(max) => {
                let message = format!(
                    "is {count}: requested {what} logprobs of {asked}, which is greater than max allowed: {max}; ask for fewer, or start \
                     the server with a larger --max-logprobs (-1: any number)"
                );
                Err(ApiError::field(param, message))
            }
        }
    }

    fn sampling(&self, request: &Request) -> Result<Sampling, ApiError> {
        let default = &self.sampling;
        let temperature = request.temperature.unwrap_or(default.temperature);
        let top_k = request.top_k.unwrap_or(default.top_k as i64);
        let sampling = Sampling {
            temperature: if temperature > 0.0 { temperature.max(TEMPERATURE_MIN) } else { temperature },
            turn_temperatures: Vec::new(),
            top_k: usize::try_from(top_k.max(0)).unwrap_or(0),
            top_p: request.top_p.unwrap_or(default.top_p),
            min_p: request.min_p.unwrap_or(default.min_p),
            repetition_penalty: request.repetition_penalty.unwrap_or(default.repetition_penalty),
            code_temperature: request.code_temperature,
        };
        let not_negative = temperature.is_finite() && temperature >= 0.0;
        check("temperature", temperature, not_negative, "0 or more")?;
        check("top_k", top_k, top_k >= -1, "-1 or more; 0 and -1 keep all")?;
        check("top_p", sampling.top_p, sampling.top_p > 0.0 && sampling.top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", sampling.min_p, (0.0..=1.0).contains(&sampling.min_p), "between 0 and 1")?;
        let penalty = sampling.repetition_penalty;
        check("repetition_penalty", penalty, penalty.is_finite() && penalty > 0.0, "above 0; 1 changes nothing")?;
        let of_code = sampling.code_temperature.unwrap_or(0.0);
        check("code_temperature", of_code, of_code.is_finite() && of_code >= 0.0, "0 or more")?;
        Ok(sampling)
    }

    fn stops(&self, request: &Request) -> Result<Stops, ApiError> {
        let strings = match &request.stop {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                check(
                    "stop",
                    format!("a list of {}", list.len()),
                    list.len() <= STOPS_MAX,
                    &format!("of at most {STOPS_MAX} strings"),
                )?;
                let texts: Option<Vec<String>> = list.iter().map(text).collect();
                texts.ok_or_else(|| ApiError::field("stop", "must be a string or a list of strings"))?
            }
            Some(_) => return Err(ApiError::field("stop", "must be a string or a list of strings")),
        };
        let is_usable = |text: &String| !text.is_empty() && text.len() <= STOP_BYTES_MAX;
        if !strings.iter().all(is_usable) {
            let message = format!("has a string that is empty or longer than {STOP_BYTES_MAX} bytes");
            return Err(ApiError::field("stop", message));
        }
        let mut token_ids = Vec::new();
        if !request.ignore_eos.unwrap_or(false) {
            token_ids.extend(&self.eos);
        }
        let asked = request.stop_token_ids.as_deref().unwrap_or_default();
        let count = format!("a list of {}", asked.len());
        check("stop_token_ids", count, asked.len() <= STOPS_MAX, &format!("of at most {STOPS_MAX} ids"))?;
        for &id in asked {
            let range = format!("below {}, where the model's ids end", self.vocab);
            check("stop_token_ids", id, (id as usize) < self.vocab, &range)?;
            token_ids.push(id);
        }
        Ok(Stops { strings, token_ids, ..Stops::default() })
    }
}

/// Known fields that are not supported must be neutral: an answer sampled otherwise than asked is worse than none.
fn refuse_unsupported(request: &Request) -> Result<(), ApiError> {
    for (param, is_neutral, remedy) in [
        ("best_of", request.best_of.is_none_or(|best| best == 1), "use n"),
        ("suffix", request.suffix.as_ref().is_none_or(String::is_empty), "leave it out"),
    ] {
        if !is_neutral {
            return Err(ApiError::field(param, format!("is not supported; {remedy}")));
        }
    }
    Ok(())
}

/// Whether a value holds, or why not.
pub fn check(param: &str, value: impl std::fmt::Display, holds: bool, range: &str) -> Result<(), ApiError> {
    match holds {
        true => Ok(()),
        false => Err(ApiError::field(param, format!("is {value}; it must be {range}"))),
    }
}
