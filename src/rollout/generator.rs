//! What rollout needs of an engine: many sequences decoded together, each with its own stops, limits and random counter. Implemented
//! by the engine and, for tests, by a script ([`Scripted`]).
//!
//! Life of a sequence: `open` (a group shares its prompt; a history may follow it) → running → stopped → `append` (an observation; running again)
//! … → `close`. A stopped sequence keeps its pages until another wants them; then it computes them again, to the same bits, when it goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use crate::engine::request::{
    AdaptiveTemperature, GenerateRequest, GeneratorError, HistoryPart, Sampled, Sampling, StopReason, Stops, TokenEvent,
};
use crate::prompt::PreparedImage;

/// Decodes many sequences together.
pub trait Generator {
    /// Opens sequences on one prompt, and on the history that the request gives them.
    ///
    /// # Errors
    /// [`GeneratorError::Full`] if no more sequences can be open now, [`GeneratorError::NeverFits`] if one would not reach
    /// `Stops::total_tokens` even alone, [`GeneratorError::EmptyPrompt`] or [`GeneratorError::TooLong`] if the prompt is empty or
    /// too long, history included.
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError>;

    /// Advances the running sequences that prefill budget and pages allow; with none running it returns nothing.
    ///
    /// # Errors
    /// When the engine failed; nothing can be generated any more.
    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError>;

    /// Adds tokens that the model did not sample to a stopped sequence, images expanded, and lets it run again.
    ///
    /// # Errors
    /// [`GeneratorError::TooLong`] if they leave no position for another token.
    fn append(&mut self, sequence: u64, token_ids: &[u32], images: &[Arc<PreparedImage>])
    -> Result<(), GeneratorError>;

    /// Forgets a sequence, running or stopped, and frees what it held. An unknown one is no error.
    fn close(&mut self, sequence: u64);
}

/// A generator that speaks from a script: each sequence has its own list of tokens, sampled one a step, and stops as an engine would.
/// When a script ends its sequence samples `end_token`.
pub struct Scripted {
    scripts: BTreeMap<u64, VecDeque<u32>>,
    bytes_of: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    entropy_of: Box<dyn Fn(u32) -> f32 + Send>,
    end_token: u32,
    room: usize,
    positions_max: usize,
    open: BTreeMap<u64, ScriptedSequence>,
    /// What rollout asked for, in order: for tests to look at.
    pub log: Vec<ScriptedCall>,
}

/// What a [`Scripted`] generator was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptedCall {
    /// To open these sequences.
    Open(Vec<u64>),
    /// To append these tokens and this many images.
    Append {
        /// To which sequence.
        sequence: u64,
        /// The tokens, an image's placeholders among them.
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
            entropy_of: Box::new(|_| 1.0),
            end_token,
            room: usize::MAX,
            positions_max: usize::MAX,
            open: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// With room for `sequences` at once.
    pub fn with_room(mut self, sequences: usize) -> Self {
        self.room = sequences;
        self
    }

    /// With the entropy, in nats, at which each token is said to be sampled; 1 otherwise.
    pub fn with_entropies(mut self, entropy_of: impl Fn(u32) -> f32 + Send + 'static) -> Self {
        self.entropy_of = Box::new(entropy_of);
        self
    }

    /// With `positions_max` positions in a sequence.
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
    fn open(&mut self, request: GenerateRequest) -> Result<(), GeneratorError> {
        let prompt_tokens = request.token_ids.len();
        if prompt_tokens == 0 {
            return Err(GeneratorError::EmptyPrompt);
        }
        let needed = request.tokens() + 1;
        if needed > self.positions_max {
            return Err(GeneratorError::TooLong { needed, limit: self.positions_max });
        }
        if self.open.len() + request.sequences.len() > self.room {
            return Err(GeneratorError::Full);
        }
        for &sequence in &request.sequences {
            let mut state = ScriptedSequence {
                stops: request.stops.clone(),
                running: true,
                prompt_tokens,
                tokens: 0,
                turn_tokens: 0,
                turn_bytes: Vec::new(),
            };
            for part in &request.history {
                match part {
                    HistoryPart::Observed { token_ids, .. } => state.observe(token_ids),
                    HistoryPart::Sampled(tokens) => {
                        for token in tokens {
                            assert!(state.running, "sequence {sequence} has a history that goes on behind a stop");
                            state.accept(token.id, &(self.bytes_of)(token.id), self.positions_max);
                        }
                    }
                }
            }
            assert!(state.running, "sequence {sequence} has a history that ends with a stop");
            assert!(self.open.insert(sequence, state).is_none(), "sequence {sequence} was opened twice");
        }
        self.log.push(ScriptedCall::Open(request.sequences));
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<TokenEvent>, GeneratorError> {
        let mut events = Vec::new();
        for (&sequence, state) in self.open.iter_mut().filter(|(_, state)| state.running) {
            let id = self.scripts.get_mut(&sequence).and_then(VecDeque::pop_front).unwrap_or(self.end_token);
            // Numbers that tests can tell apart: they depend on the sequence and the position only.
            let logprob = -((sequence as f32) + (state.tokens as f32) / 1024.0);
            let token = Sampled {
                id,
                logprob,
                logprob_at_temperature: logprob,
                temperature: 1.0,
                processed_logprob: logprob,
                kept_mass: 1.0,
                entropy: (self.entropy_of)(id),
            };
            let stopped = state.accept(id, &(self.bytes_of)(id), self.positions_max);
            events.push(TokenEvent { sequence, token: Some(token), stopped, ..TokenEvent::default() });
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
        state.observe(token_ids);
        self.log.push(ScriptedCall::Append { sequence, token_ids: token_ids.to_vec(), images: images.len() });
        Ok(())
    }

    fn close(&mut self, sequence: u64) {
        if self.open.remove(&sequence).is_some() {
            self.log.push(ScriptedCall::Close(sequence));
        }
    }
}

impl ScriptedSequence {
    /// Takes a token that the model sampled; the reason to stop, if it is one.
    fn accept(&mut self, id: u32, bytes: &[u8], positions_max: usize) -> Option<StopReason> {
        self.tokens += 1;
        self.turn_tokens += 1;
        self.turn_bytes.extend(bytes);
        let stopped = self.stop(id, positions_max);
        self.running = stopped.is_none();
        stopped
    }

    /// Takes tokens that it did not sample, and runs again.
    fn observe(&mut self, token_ids: &[u32]) {
        self.tokens += token_ids.len();
        self.turn_tokens = 0;
        self.turn_bytes.clear();
        self.running = true;
    }

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
