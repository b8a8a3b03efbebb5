//! Sequences as a rollout with calls has them: a prompt, turns of the model's own tokens, and between two turns a call that takes its time
//! and brings an observation. All of it follows from the sequence's number.

use std::ops::Range;

use thyme_engine::ops::sample::philox_uniform;

/// What a run is made of.
#[derive(Clone)]
pub struct Workload {
    pub name: &'static str,
    pub sequences: Range<u64>,
    /// Sequences open together.
    pub in_flight: usize,
    /// Pages of the engine.
    pub pages: usize,
    pub prompt_tokens: Range<f64>,
    pub turns: Range<f64>,
    pub turn_tokens: Range<f64>,
    pub observation_tokens: Range<f64>,
    /// Seconds that a call takes.
    pub call_seconds: Range<f64>,
}

/// What one sequence does, decided beforehand.
pub struct Script {
    pub number: u64,
    pub prompt: Vec<u32>,
    /// In order; behind the last there is no call.
    pub turns: Vec<Turn>,
}

/// A turn, and the call behind it.
#[derive(Clone, Copy)]
pub struct Turn {
    pub tokens: usize,
    pub call_seconds: f64,
    pub observation_tokens: usize,
}

impl Workload {
    pub fn script(&self, number: u64) -> Script {
        let draw = |range: &Range<f64>, what: u64| {
            // Evenly on a logarithmic scale: many are short, some are long.
            range.start * (range.end / range.start).powf(philox_uniform(1, number, what))
        };
        let turn = |place: u64| Turn {
            tokens: draw(&self.turn_tokens, 4 * place + 2) as usize,
            call_seconds: if self.call_seconds.end > 0.0 { draw(&self.call_seconds, 4 * place + 3) } else { 0.0 },
            observation_tokens: draw(&self.observation_tokens, 4 * place + 4) as usize,
        };
        let turns = (0..draw(&self.turns, 1) as u64).map(turn).collect();
        Script { number, prompt: tokens(number, 0, draw(&self.prompt_tokens, 0) as usize), turns }
    }
}

impl Script {
    /// Tokens behind the prompt.
    pub fn total_tokens(&self) -> usize {
        self.turns.iter().map(|turn| turn.tokens + turn.observation_tokens).sum()
    }
}

/// Ids that no other sequence has in the same places.
pub fn tokens(number: u64, first: u64, count: usize) -> Vec<u32> {
    (0..count as u64).map(|i| (philox_uniform(2, number, first + i) * 700.0) as u32 + 4).collect()
}
