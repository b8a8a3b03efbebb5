//! How a sequence's next token is drawn, and what its drawn bytes mean for it.

pub mod adaptive_temperature;
pub mod likeliest;
pub mod stop;

use super::request::Sampling;
use crate::ops::sample::Draw;
use adaptive_temperature::AdaptiveState;

/// A sequence's sampling: settings, the adaptive temperature's state, tokens seen.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    seed: u64,
    sequence: u64,
    adaptive: Option<AdaptiveState>,
    /// Each token of the sequence once, kept only where a penalty asks for it.
    seen: Vec<u32>,
    is_seen: Vec<bool>,
}

impl Sampler {
    /// For sequence number `sequence` of a vocabulary of `vocab` tokens.
    pub fn new(
        settings: &Sampling,
        adaptive: Option<AdaptiveState>,
        seed: u64,
        sequence: u64,
        vocab: usize,
    ) -> Sampler {
        let is_seen = if settings.repetition_penalty == 1.0 { Vec::new() } else { vec![false; vocab] };
        Sampler { settings: settings.clone(), seed, sequence, adaptive, seen: Vec::new(), is_seen }
    }

    /// The temperature of the next token.
    pub fn temperature(&self) -> f32 {
        match &self.adaptive {
            Some(state) if state.is_inside() => state.temperature(),
            _ => self.settings.temperature,
        }
    }

    /// How to draw the token at `position`.
    pub fn draw(&self, position: usize) -> Draw<'_> {
        Draw {
            temperature: self.temperature(),
            top_k: self.settings.top_k,
            top_p: self.settings.top_p,
            min_p: self.settings.min_p,
            repetition_penalty: self.settings.repetition_penalty,
            seen: &self.seen,
            bias: &[],
            allowed: None,
            seed: self.seed,
            sequence: self.sequence,
            position: position as u64,
        }
    }

    /// Takes note of tokens of the sequence, drawn or not.
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

    /// Takes the bytes of a token that the model drew.
    pub fn read_own(&mut self, bytes: &[u8]) {
        if let Some(state) = &mut self.adaptive {
            state.read(bytes);
        }
    }

    /// Something that the model did not draw came between.
    pub fn interrupt(&mut self) {
        if let Some(state) = &mut self.adaptive {
            state.interrupt();
        }
    }
}
