//! From a request's fields to how tokens are drawn and when answers end, every value checked.

use std::sync::Arc;

use serde_json::Value;

use super::choice::LogprobsMode;
use super::error::ApiError;
use super::openai::{LogprobsAsked, Request};
use crate::engine::request::{Sampling, Stops};
use crate::engine::sampling::constraints::Constraints;

/// Answers to all prompts of a request at most.
const ANSWERS_MAX: usize = 4096;
/// Stop strings and stop tokens of a request at most, and bytes of a string.
const STOPS_MAX: usize = 64;
const STOP_BYTES_MAX: usize = 1024;
/// Lower positive temperatures are raised to this one, as in vLLM.
const TEMPERATURE_MIN: f32 = 0.01;

/// What holds where a request says nothing.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// How tokens are drawn.
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
    /// Which log-probabilities are told.
    pub logprobs_mode: LogprobsMode,
}

/// A request's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What is asked of answers besides; filled in when it is compiled.
    pub constraints: Arc<Constraints>,
    /// When answers end; the tokens of an answer are filled in for each prompt.
    pub stops: Stops,
    /// Tokens of an answer, if the request says.
    pub max_tokens: Option<usize>,
    /// Answers to each prompt.
    pub n: usize,
    /// Seed, if the request says.
    pub seed: Option<u64>,
    /// Leave the stop in the text.
    pub include_stop: bool,
    /// Leave special tokens out of the text.
    pub skip_special: bool,
    /// Tokens' log-probabilities are wanted, and those of so many of the likeliest.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt, with so many of the likeliest.
    pub prompt_logprobs: Option<usize>,
    /// Ids are wanted.
    pub token_ids: bool,
    /// `token_id:N` stands for a token's text.
    pub tokens_as_ids: bool,
}

impl Defaults {
    /// The settings of a request.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn settings(&self, request: &Request) -> Result<Settings, ApiError> {
        refuse_unknown(request)?;
        let n = request.n.unwrap_or(1);
        check("n", n, (1..=ANSWERS_MAX).contains(&n), &format!("between 1 and {ANSWERS_MAX}"))?;
        let max_tokens = request.max_completion_tokens.or(request.max_tokens).or(self.max_tokens);
        if let Some(tokens) = max_tokens {
            check("max_tokens", tokens, tokens > 0, "1 or more")?;
        }
        let prompt_logprobs = request.prompt_logprobs.map(|count| count_of("prompt_logprobs", count)).transpose()?;
        if prompt_logprobs.is_some() && request.stream.unwrap_or(false) {
            return Err(ApiError::field("prompt_logprobs", "cannot be streamed; send stream = false"));
        }
        Ok(Settings {
            sampling: self.sampling(request)?,
            constraints: Arc::default(),
            stops: self.stops(request)?,
            max_tokens,
            n,
            seed: request.seed.map(|seed| seed as u64),
            include_stop: request.include_stop_str_in_output.unwrap_or(false),
            skip_special: request.skip_special_tokens.unwrap_or(true),
            logprobs: self.logprobs(request)?,
            prompt_logprobs,
            token_ids: request.return_token_ids.unwrap_or(false),
            tokens_as_ids: request.return_tokens_as_token_ids.unwrap_or(false),
        })
    }

    /// Checks that the answers to so many prompts are not too many.
    pub fn check_answers(&self, prompts: usize, settings: &Settings) -> Result<(), ApiError> {
        let answers = prompts * settings.n;
        check("prompt", format!("{answers} answers"), answers <= ANSWERS_MAX, &format!("at most {ANSWERS_MAX} with n"))
    }

    /// Tokens of an answer to a prompt of so many.
    pub fn answer_tokens(&self, settings: &Settings, prompt: usize) -> usize {
        let room = self.context_tokens - prompt;
        settings.max_tokens.map_or(room, |tokens| tokens.min(room))
    }

    /// Whether tokens' log-probabilities are wanted, and how many of the likeliest.
    fn logprobs(&self, request: &Request) -> Result<Option<usize>, ApiError> {
        let top = request.top_logprobs.map(|count| count_of("top_logprobs", count)).transpose()?;
        let asked = match request.logprobs {
            None | Some(LogprobsAsked::Whether(false)) if top.unwrap_or(0) > 0 => {
                return Err(ApiError::field("top_logprobs", "needs logprobs = true beside it"));
            }
            None | Some(LogprobsAsked::Whether(false)) => None,
            Some(LogprobsAsked::Whether(true)) => Some(top.unwrap_or(0)),
            Some(LogprobsAsked::Count(count)) => Some(count_of("logprobs", count)?),
        };
        Ok(asked)
    }

    fn sampling(&self, request: &Request) -> Result<Sampling, ApiError> {
        let default = &self.sampling;
        let temperature = request.temperature.unwrap_or(default.temperature);
        let top_k = request.top_k.unwrap_or(default.top_k as i64);
        let sampling = Sampling {
            temperature: if temperature > 0.0 { temperature.max(TEMPERATURE_MIN) } else { temperature },
            top_k: usize::try_from(top_k.max(0)).unwrap_or(0),
            top_p: request.top_p.unwrap_or(default.top_p),
            min_p: request.min_p.unwrap_or(default.min_p),
            repetition_penalty: request.repetition_penalty.unwrap_or(default.repetition_penalty),
            code_temperature: None,
        };
        let not_negative = temperature.is_finite() && temperature >= 0.0;
        check("temperature", temperature, not_negative, "0 or more")?;
        check("top_k", top_k, top_k >= -1, "-1 or more; 0 and -1 keep all")?;
        check("top_p", sampling.top_p, sampling.top_p > 0.0 && sampling.top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", sampling.min_p, (0.0..=1.0).contains(&sampling.min_p), "between 0 and 1")?;
        let penalty = sampling.repetition_penalty;
        check("repetition_penalty", penalty, penalty.is_finite() && penalty > 0.0, "above 0; 1 changes nothing")?;
        Ok(sampling)
    }

    fn stops(&self, request: &Request) -> Result<Stops, ApiError> {
        let strings = match &request.stop {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let texts: Option<Vec<String>> = list.iter().map(text).collect();
                texts.ok_or_else(|| ApiError::field("stop", "must be a text or a list of texts"))?
            }
            Some(_) => return Err(ApiError::field("stop", "must be a text or a list of texts")),
        };
        check("stop", "a list", strings.len() <= STOPS_MAX, &format!("of at most {STOPS_MAX} texts"))?;
        let is_usable = |text: &String| !text.is_empty() && text.len() <= STOP_BYTES_MAX;
        if !strings.iter().all(is_usable) {
            let message = format!("has a text that is empty or longer than {STOP_BYTES_MAX} bytes");
            return Err(ApiError::field("stop", message));
        }
        let mut token_ids = Vec::new();
        if !request.ignore_eos.unwrap_or(false) {
            token_ids.extend(&self.eos);
        }
        for &id in request.stop_token_ids.as_deref().unwrap_or_default() {
            let range = format!("below {}, where the model's ids end", self.vocab);
            check("stop_token_ids", id, (id as usize) < self.vocab, &range)?;
            token_ids.push(id);
        }
        check("stop_token_ids", "a list", token_ids.len() <= 2 * STOPS_MAX, &format!("of at most {STOPS_MAX} ids"))?;
        Ok(Stops { strings, token_ids, ..Stops::default() })
    }
}

/// Known fields that have no effect here must be neutral: an answer drawn otherwise than asked is worse than none.
fn refuse_unknown(request: &Request) -> Result<(), ApiError> {
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

fn count_of(param: &str, count: i64) -> Result<usize, ApiError> {
    usize::try_from(count).map_err(|_| ApiError::field(param, format!("is {count}; it must be 0 or more")))
}

/// Whether a value holds, or why not.
pub fn check(param: &str, value: impl std::fmt::Display, holds: bool, range: &str) -> Result<(), ApiError> {
    match holds {
        true => Ok(()),
        false => Err(ApiError::field(param, format!("is {value}; it must be {range}"))),
    }
}
