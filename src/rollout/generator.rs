//! What rollout needs of an engine: many sequences decoded together, each with its own stops, limits and random counter. Implemented
//! by the engine and, for tests, by a script ([`Scripted`]).
//!
//! Life of a sequence: `open` (a group shares its prompt) → running → stopped → `append` (an observation; running again) … → `close`.
//! A stopped sequence keeps its pages until it is closed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::prompt::PreparedImage;

/// A token that the model drew. Log-probabilities are natural.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// Log-probability at temperature 1 over the full vocabulary, nothing cut or penalised.
    pub raw: f32,
    /// The same at the temperature it was drawn at; equal to `raw` at temperatures 0 and 1.
    pub tempered: f32,
    /// Temperature it was drawn at; 0 for the likeliest.
    pub temperature: f32,
    /// Under the distribution drawn from, after penalty and cuts; 0 at temperature 0.
    pub processed: f32,
    /// Share of the mass that the cuts kept.
    pub kept: f32,
    /// Entropy of the raw distribution in nats.
    pub entropy: f32,
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 draws the likeliest token.
    pub temperature: f32,
    /// Keep the `top_k` likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens of at least `min_p` times the likeliest's probability; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens that are in the sequence less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Temperature inside code; none draws code like the rest.
    pub code_temperature: Option<f32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, code_temperature: None }
    }
}

/// Another temperature between two tags of the model's own text (GRPO-ATS): the token that completes `open` is still drawn at the
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
#[derive(Clone, Debug)]
pub struct Opening {
    /// The prompt, images expanded.
    pub token_ids: Vec<u32>,
    /// The prompt's images in order.
    pub images: Vec<Arc<PreparedImage>>,
    /// Numbers of the sequences, unique among the open ones; with the position they are the counter of the random draws.
    pub sequences: Vec<u64>,
    /// Seed of the random draws.
    pub seed: u64,
    /// How tokens are drawn; `code_temperature` is in `adaptive`.
    pub sampling: Sampling,
    /// The other temperature, if there is one.
    pub adaptive: Option<AdaptiveTemperature>,
    /// When sequences stop.
    pub stops: Stops,
}

/// When a sequence stops. The token that completes a stop is kept, whatever else is glued to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Strings, matched on the bytes that the model drew since the last `open` or `append`.
    pub strings: Vec<String>,
    /// Tokens: end of turn, and those that the model must not write.
    pub token_ids: Vec<u32>,
    /// Tokens drawn since the last `open` or `append`.
    pub turn_tokens: usize,
    /// Tokens after the prompt, drawn or appended. An opened sequence has room for as many.
    pub total_tokens: usize,
}

/// Why a sequence stopped; the first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// `Stops::strings[_]` was completed; of several, the one that ended first.
    Text(usize),
    /// A token of `Stops::token_ids` was drawn.
    Token(u32),
    /// `Stops::turn_tokens` is reached.
    TurnTokens,
    /// `Stops::total_tokens` is reached.
    TotalTokens,
    /// The model or the cache has no further position.
    ContextFull,
}

/// What a step brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A token was drawn.
    Token {
        /// Whose.
        sequence: u64,
        /// The token.
        token: Sampled,
    },
    /// A sequence stopped, after its last token.
    Stopped {
        /// Which.
        sequence: u64,
        /// Why.
        reason: StopReason,
    },
}

/// What a generator could not do.
#[derive(Debug, Error)]
pub enum GeneratorError {
    /// No room now; it may open when others are closed.
    #[error("no room for another group now")]
    Full,
    /// The tokens do not fit at all.
    #[error(
        "{needed} tokens do not fit in {limit}; lower max_pixels or the limits of tokens, or give the engine more pages"
    )]
    TooLong {
        /// Tokens that the sequence needs.
        needed: usize,
        /// Tokens possible.
        limit: usize,
    },
    /// No open sequence has this number.
    #[error("sequence {0} is not open")]
    Unknown(u64),
    /// The engine failed.
    #[error("the engine failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Decodes many sequences together.
pub trait Generator {
    /// Opens sequences on one prompt.
    ///
    /// # Errors
    /// [`GeneratorError::Full`] if they would not surely reach `Stops::total_tokens` now, [`GeneratorError::TooLong`] if never.
    fn open(&mut self, opening: Opening) -> Result<(), GeneratorError>;

    /// Advances every running sequence; with none running it brings nothing.
    ///
    /// # Errors
    /// When the engine failed; nothing can be generated any more.
    fn step(&mut self) -> Result<Vec<Event>, GeneratorError>;

    /// Adds tokens that the model did not draw to a stopped sequence, images expanded, and lets it run again.
    ///
    /// # Errors
    /// [`GeneratorError::TooLong`] if they leave no position for another token.
    fn append(&mut self, sequence: u64, token_ids: &[u32], images: &[Arc<PreparedImage>])
    -> Result<(), GeneratorError>;

    /// Forgets a sequence, running or stopped, and frees what it held. An unknown one is no error.
    fn close(&mut self, sequence: u64);
}

/// A generator that speaks from a script: each sequence has its own list of tokens, drawn one a step, and stops as an engine would.
/// When a script ends its sequence draws `end_token`.
pub struct Scripted {
    scripts: BTreeMap<u64, VecDeque<u32>>,
    bytes_of: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    end_token: u32,
    room: usize,
    positions_max: usize,
    open: BTreeMap<u64, ScriptedSequence>,
    /// What rollout asked for, in order: for tests to look at.
    pub log: Vec<Asked>,
}

/// What a [`Scripted`] generator was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To open these sequences.
    Open(Vec<u64>),
    /// To append this many tokens and images.
    Append {
        /// To which sequence.
        sequence: u64,
        /// The tokens.
        token_ids: Vec<u32>,
        /// How many images.
        images: usize,
    },
    /// To close a sequence.
    Close(u64),
}

/// An open sequence of a script.
struct ScriptedSequence {
    stops: Stops,
    running: bool,
    prompt_tokens: usize,
    tokens: usize,
    turn_tokens: usize,
    turn_bytes: Vec<u8>,
}

impl Scripted {
    /// Scripts by sequence number; `bytes_of` decodes a token.
    pub fn new(
        scripts: impl IntoIterator<Item = (u64, Vec<u32>)>,
        end_token: u32,
        bytes_of: impl Fn(u32) -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self {
            scripts: scripts.into_iter().map(|(sequence, script)| (sequence, script.into())).collect(),
            bytes_of: Box::new(bytes_of),
            end_token,
            room: usize::MAX,
            positions_max: usize::MAX,
            open: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// With room for so many sequences at once.
    pub fn with_room(mut self, sequences: usize) -> Self {
        self.room = sequences;
        self
    }

    /// With so many positions in a sequence.
    pub fn with_positions(mut self, positions_max: usize) -> Self {
        self.positions_max = positions_max;
        self
    }

    /// How many sequences are open.
    pub fn open_sequences(&self) -> usize {
        self.open.len()
    }
}

impl Generator for Scripted {
    fn open(&mut self, opening: Opening) -> Result<(), GeneratorError> {
        let prompt_tokens = opening.token_ids.len();
        if prompt_tokens + 1 > self.positions_max {
            return Err(GeneratorError::TooLong { needed: prompt_tokens + 1, limit: self.positions_max });
        }
        if self.open.len() + opening.sequences.len() > self.room {
            return Err(GeneratorError::Full);
        }
        for &sequence in &opening.sequences {
            let stops = opening.stops.clone();
            let state = ScriptedSequence {
                stops,
                running: true,
                prompt_tokens,
                tokens: 0,
                turn_tokens: 0,
                turn_bytes: Vec::new(),
            };
            assert!(self.open.insert(sequence, state).is_none(), "sequence {sequence} was opened twice");
        }
        self.log.push(Asked::Open(opening.sequences));
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Event>, GeneratorError> {
        let mut events = Vec::new();
        for (&sequence, state) in self.open.iter_mut().filter(|(_, state)| state.running) {
            let id = self.scripts.get_mut(&sequence).and_then(VecDeque::pop_front).unwrap_or(self.end_token);
            // Numbers that tests can tell apart: they depend on the sequence and the position only.
            let raw = -((sequence as f32) + (state.tokens as f32) / 1024.0);
            let token = Sampled { id, raw, tempered: raw, temperature: 1.0, processed: raw, kept: 1.0, entropy: 1.0 };
            events.push(Event::Token { sequence, token });
            state.tokens += 1;
            state.turn_tokens += 1;
            state.turn_bytes.extend((self.bytes_of)(id));
            if let Some(reason) = state.stop(id, self.positions_max) {
                state.running = false;
                events.push(Event::Stopped { sequence, reason });
            }
        }
        Ok(events)
    }

    fn append(
        &mut self,
        sequence: u64,
        token_ids: &[u32],
        images: &[Arc<PreparedImage>],
    ) -> Result<(), GeneratorError> {
        let state = self.open.get_mut(&sequence).ok_or(GeneratorError::Unknown(sequence))?;
        assert!(!state.running, "sequence {sequence} was appended to while it runs");
        let needed = state.prompt_tokens + state.tokens + token_ids.len() + 1;
        if needed > self.positions_max {
            return Err(GeneratorError::TooLong { needed, limit: self.positions_max });
        }
        state.tokens += token_ids.len();
        state.turn_tokens = 0;
        state.turn_bytes.clear();
        state.running = true;
        self.log.push(Asked::Append { sequence, token_ids: token_ids.to_vec(), images: images.len() });
        Ok(())
    }

    fn close(&mut self, sequence: u64) {
        if self.open.remove(&sequence).is_some() {
            self.log.push(Asked::Close(sequence));
        }
    }
}

impl ScriptedSequence {
    fn stop(&self, id: u32, positions_max: usize) -> Option<StopReason> {
        let ends = self.stops.strings.iter().enumerate().filter_map(|(index, string)| {
            let at = find(&self.turn_bytes, string.as_bytes())?;
            Some((at + string.len(), index))
        });
        if let Some((_, index)) = ends.min() {
            Some(StopReason::Text(index))
        } else if self.stops.token_ids.contains(&id) {
            Some(StopReason::Token(id))
        } else if self.turn_tokens >= self.stops.turn_tokens {
            Some(StopReason::TurnTokens)
        } else if self.tokens >= self.stops.total_tokens {
            Some(StopReason::TotalTokens)
        } else if self.prompt_tokens + self.tokens >= positions_max {
            Some(StopReason::ContextFull)
        } else {
            None
        }
    }
}

/// Where `part` first stands in `bytes`.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len().max(1)).position(|window| window == part)
}
