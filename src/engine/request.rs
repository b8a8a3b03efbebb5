//! What is asked of an engine and what it answers: sequences to open, how to sample and when to stop, tokens and stops.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::sampling::constraints::Constraints;
use crate::ops::attention::PAGE_TOKENS;
use crate::prompt::PreparedImage;

/// A token that the model sampled. Log-probabilities are natural.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sampled {
    /// Its id in the vocabulary.
    pub id: u32,
    /// Log-probability at temperature 1 over the full vocabulary, nothing cut or penalised.
    pub logprob: f32,
    /// At the temperature it was sampled at (1 where that is 0), over the tokens that may be sampled: all but placeholders of pictures.
    pub logprob_at_temperature: f32,
    /// Temperature it was sampled at; 0 for the likeliest.
    pub temperature: f32,
    /// Under the distribution sampled from, after penalties, bias, mask and cuts; 0 at temperature 0.
    pub processed_logprob: f32,
    /// Share of the mass that the cuts kept, of what was not banned.
    pub kept_mass: f32,
    /// Entropy of the raw distribution in nats.
    pub entropy: f32,
}

/// How tokens are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Temperatures of the model's turns in place of `temperature`, in order, the last of all later ones; an observation begins a turn. Pixel
    /// Reasoner has `[1.0, 0.9]`. Empty for none.
    pub turn_temperatures: Vec<f32>,
    /// Keep the `top_k` likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens of at least `min_p` times the likeliest's probability; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens that are in the sequence less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Temperature inside code; none samples code like the rest.
    pub code_temperature: Option<f32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            turn_temperatures: Vec::new(),
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            code_temperature: None,
        }
    }
}

impl GenerateRequest {
    /// Tokens of the prompt and of the history.
    pub fn tokens(&self) -> usize {
        self.token_ids.len() + self.history.iter().map(HistoryPart::tokens).sum::<usize>()
    }
}

impl Sampling {
    /// The temperature of a turn, from 0.
    pub fn temperature_of(&self, turn: usize) -> f32 {
        let of_turns = &self.turn_temperatures;
        *of_turns.get(turn).or(of_turns.last()).unwrap_or(&self.temperature)
    }
}

/// Another temperature between two tags of the model's own text (GRPO-ATS): the token that completes `open` is still sampled at the
/// usual one, those after it at this one, up to and with the token that completes `close`. Observations do not change the state.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveTemperature {
    /// The tag after which it holds.
    pub open: String,
    /// The tag that ends it.
    pub close: String,
    /// The temperature in between.
    pub temperature: f32,
}

/// Sequences to open on one prompt, which is computed once.
#[derive(Clone, Debug, Default)]
pub struct GenerateRequest {
    /// The prompt, images expanded.
    pub token_ids: Vec<u32>,
    /// The prompt's images in order.
    pub images: Vec<Arc<PreparedImage>>,
    /// What follows the prompt already, in order: turns and what was appended to them, and the beginning of a turn that goes on. It counts and
    /// acts as if the sequence had sampled and been appended to; only an observed part may follow a stop.
    pub history: Vec<HistoryPart>,
    /// Numbers of the sequences, unique among the open ones; with the position they are the counter of the random numbers.
    pub sequences: Vec<u64>,
    /// Counter of the random numbers for the lowest of these numbers, where it is not the number itself; the others count on from it.
    pub first_counter: Option<u64>,
    /// How many of the likeliest tokens are returned with each sampled one.
    pub top_logprobs: usize,
    /// Their log-probabilities are those of the distribution sampled from, in place of those at temperature 1.
    pub top_logprobs_processed: bool,
    /// Seed of the random numbers.
    pub seed: u64,
    /// How tokens are sampled; `code_temperature` is in `adaptive`.
    pub sampling: Sampling,
    /// The other temperature, if there is one.
    pub adaptive: Option<AdaptiveTemperature>,
    /// Constraints on the sampled tokens: biases, bans, penalties, a grammar.
    pub constraints: Arc<Constraints>,
    /// When sequences stop.
    pub stops: Stops,
}

/// A part of what follows the prompt when a sequence is opened.
#[derive(Clone, Debug)]
pub enum HistoryPart {
    /// Tokens that the model has sampled before.
    Sampled(Vec<Sampled>),
    /// Tokens that it did not sample; what follows is a turn of its own.
    Observed {
        /// The tokens, images expanded.
        token_ids: Vec<u32>,
        /// Their images in order.
        images: Vec<Arc<PreparedImage>>,
    },
}

impl HistoryPart {
    /// How many tokens it has.
    pub fn tokens(&self) -> usize {
        match self {
            HistoryPart::Sampled(tokens) => tokens.len(),
            HistoryPart::Observed { token_ids, .. } => token_ids.len(),
        }
    }
}

/// When a sequence stops. The token that completes a stop is kept, whatever else is glued to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Strings, matched on the bytes that the model sampled since the last `open` or `append`.
    pub strings: Vec<String>,
    /// Tokens, such as the end of a turn.
    pub token_ids: Vec<u32>,
    /// Tokens sampled since the last `open` or `append`.
    pub turn_tokens: usize,
    /// Tokens after the prompt, sampled or appended. They must fit in the whole cache; other sequences may hold the pages meanwhile.
    pub total_tokens: usize,
}

/// Why a sequence stopped; the first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// `Stops::strings[_]` was completed; of several, the one that ended first.
    Text(usize),
    /// A token of `Stops::token_ids` was sampled.
    Token(u32),
    /// `Stops::turn_tokens` is reached.
    TurnTokens,
    /// `Stops::total_tokens` is reached.
    TotalTokens,
    /// The model's context is full.
    ContextFull,
    /// The constraints allow no token, so none was sampled. Every other reason follows a sampled token.
    NothingAllowed,
}

/// What was sampled for a sequence: a token, its end, or both. A step brings a sequence several where a draft was accepted, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenEvent {
    /// Number of the sequence.
    pub sequence: u64,
    /// The sampled token; none where the constraints allow no token.
    pub token: Option<Sampled>,
    /// The likeliest tokens in its place, as many as the request asked for, with their log-probabilities: raw or processed, as it asked.
    pub top_logprobs: Vec<(u32, f32)>,
    /// Version of the weights that it was sampled under.
    pub weights_version: u64,
    /// Why the sequence stopped, if this was its last token.
    pub stopped: Option<StopReason>,
}

/// What a generator could not do.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// No room now; it may open when others are closed.
    #[error("no room for another group now")]
    Full,
    /// There is no token to go on from.
    #[error("the prompt has no tokens; give at least one")]
    EmptyPrompt,
    /// The tokens are more than a sequence can have.
    #[error(
        "{needed} tokens do not fit in a context of {limit}; shorten the prompt, or lower max_pixels or the limits of tokens"
    )]
    TooLong {
        /// Tokens that the sequence needs.
        needed: usize,
        /// Tokens that the sequence can have.
        limit: usize,
    },
    /// A sequence needs more pages than the engine has, even alone.
    #[error(
        "a sequence of up to {tokens} tokens after a prompt of {prompt} needs {needed} pages of {PAGE_TOKENS} tokens, and the engine has \
         {pages}; lower max_total_tokens or max_pixels, or give the engine more memory for pages (kv_cache_bytes)"
    )]
    NeverFits {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that it may add to it.
        tokens: usize,
        /// Pages that it needs.
        needed: usize,
        /// Pages in all.
        pages: usize,
    },
    /// No open sequence has this number.
    #[error("sequence {0} is not open")]
    Unknown(u64),
    /// The engine failed.
    #[error("the engine failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}
