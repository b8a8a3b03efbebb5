//! What is known of the next step while the tokens of the last one are on their way.

use std::sync::Arc;
use std::time::Instant;

use super::sample::Logits;
use super::scheduler::Chunk;
use crate::ops::Tensor;

/// The next step, as far as it is known.
#[derive(Default)]
pub struct Ahead {
    /// Chunks that it computes, unless a sequence stops.
    pub chunks: Vec<Chunk>,
    /// Its forward, where that was launched already.
    pub launched: Option<Launched>,
    /// A sequence has a draft that would repay. A forward that is launched ahead takes none.
    pub wants_draft: bool,
}

/// A forward that was launched before its tokens were read.
pub struct Launched {
    /// F32 `[at least sequences, vocab]`.
    pub logits: Arc<Tensor>,
    /// The sequence of each row of the logits. Some may have stopped since, or are paused or closed.
    pub sequences: Vec<u64>,
    /// When the device came to it: once the tokens of the step before were there.
    pub began: Instant,
}

impl Ahead {
    /// A sequence takes no part in the next step.
    pub fn leave_out(&mut self, number: u64) {
        self.chunks.retain(|chunk| chunk.sequence != number);
    }
}

impl Launched {
    /// The logits, for the chunks whose sequences go on: some of those that were launched, in their order.
    pub fn logits(self, chunks: &[Chunk]) -> Logits {
        let mut numbered = self.sequences.iter().enumerate();
        let mut row = |chunk: &Chunk| numbered.find(|(_, number)| **number == chunk.sequence).map(|(row, _)| row);
        let rows = chunks.iter().map(|chunk| row(chunk).expect("what was launched has all that go on"));
        Logits { rows: Some(rows.collect()), values: self.logits, is_replayed: true }
    }
}
