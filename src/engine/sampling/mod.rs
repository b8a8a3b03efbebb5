//! How a sequence's next token is sampled, and what its sampled bytes mean for it.

pub mod adaptive_temperature;
pub mod constraints;
pub mod form;
pub mod grammar;
pub mod top_logprobs;
pub mod stop;

use super::request::{Sampled, Sampling};
use crate::ops::sample::{SampledToken, SamplingParams};
use adaptive_temperature::AdaptiveState;
use constraints::Constrained;

/// A sequence's sampling: settings, the adaptive temperature's state, tokens seen, what its constraints ask for now. It depends on the
/// sequence's tokens alone, not on when and how often they are computed, except that a grammar's mask may time out (`grammar.rs`).
#[derive(Clone, Debug)]
pub struct SamplingState {
    settings: Sampling,
    seed: u64,
    counter: u64,
    adaptive: Option<AdaptiveState>,
    /// The model's turn, from 0.
    turn: usize,
    /// None where nothing is asked.
    constrained: Option<Box<Constrained>>,
    /// Each token of the sequence once, kept only where a penalty asks for it.
    seen: Vec<u32>,
    is_seen: Vec<bool>,
}

impl SamplingState {
    /// For a sequence with this counter of the random numbers, over a vocabulary of `vocab` tokens.
    pub fn new(
        settings: &Sampling,
        adaptive: Option<AdaptiveState>,
        constrained: Option<Constrained>,
        seed: u64,
        counter: u64,
        vocab: usize,
    ) -> SamplingState {
        let is_seen = if settings.repetition_penalty == 1.0 { Vec::new() } else { vec![false; vocab] };
        let constrained = constrained.map(Box::new);
        let settings = settings.clone();
        SamplingState { settings, seed, counter, adaptive, turn: 0, constrained, seen: Vec::new(), is_seen }
    }

    /// The temperature of the next token.
    pub fn temperature(&self) -> f32 {
        match &self.adaptive {
            Some(state) if state.is_inside() => state.temperature(),
            _ => self.settings.temperature_of(self.turn),
        }
    }

    /// Whether a grammar says what may come next. Then each sample wants a mask, made by [`SamplingState::make_mask`] when the token before it is
    /// known.
    pub fn has_grammar(&self) -> bool {
        self.constrained.as_ref().is_some_and(|constrained| constrained.has_grammar())
    }

    /// Whether the next sample waits for its mask.
    pub fn lacks_mask(&self) -> bool {
        self.constrained.as_ref().is_some_and(|constrained| constrained.lacks_mask())
    }

    /// Makes the mask of the next sample, where a grammar asks for one.
    pub fn make_mask(&mut self) {
        if let Some(constrained) = &mut self.constrained {
            constrained.make_mask();
        }
    }

    /// Whether a stop string that the last token completed ends the sequence.
    pub fn may_end(&self) -> bool {
        self.constrained.as_ref().is_none_or(|constrained| constrained.may_end())
    }

    /// How to sample the token at `position`.
    pub fn params(&self, position: usize) -> SamplingParams<'_> {
        assert!(!self.lacks_mask(), "the token at {position} is sampled before its mask is made");
        SamplingParams {
            temperature: self.temperature(),
            top_k: self.settings.top_k,
            top_p: self.settings.top_p,
            min_p: self.settings.min_p,
            repetition_penalty: self.settings.repetition_penalty,
            seen: &self.seen,
            bias: self.constrained.as_ref().map_or(&[], |constrained| constrained.bias()),
            allowed: self.constrained.as_ref().and_then(|constrained| constrained.mask()),
            seed: self.seed,
            sequence: self.counter,
            position: position as u64,
        }
    }

    /// The token that was sampled with [`SamplingState::params`]; none where the constraints allow none.
    pub fn token(&self, sampled: &SampledToken) -> Option<Sampled> {
        (self.constrained.is_none() || !sampled.is_nothing()).then(|| Sampled {
            id: sampled.token,
            logprob: sampled.logprob,
            logprob_at_temperature: sampled.logprob_at_temperature,
            temperature: self.temperature(),
            processed_logprob: sampled.processed_logprob,
            kept_mass: sampled.kept_mass,
            entropy: sampled.entropy,
        })
    }

    /// Takes note of tokens of the sequence, sampled or not.
    pub fn see(&mut self, ids: &[u32]) {
        if self.is_seen.is_empty() {
            return;
        }
        for &id in ids {
            if !std::mem::replace(&mut self.is_seen[id as usize], true) {
                self.seen.push(id);
            }
        }
    }

    /// Takes a token that the model sampled, and its bytes.
    pub fn read_own(&mut self, id: u32, bytes: &[u8]) {
        if let Some(state) = &mut self.adaptive {
            state.read(bytes);
        }
        if let Some(constrained) = &mut self.constrained {
            constrained.read_own(id);
        }
    }

    /// Something that the model did not sample came between; its next turn begins.
    pub fn interrupt(&mut self) {
        self.turn += 1;
        if let Some(state) = &mut self.adaptive {
            state.interrupt();
        }
        if let Some(constrained) = &mut self.constrained {
            constrained.interrupt();
        }
    }
}
