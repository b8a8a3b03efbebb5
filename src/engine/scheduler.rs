//! Which tokens of which sequences the next forward takes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::sequence::{PromptRole, Sequence};

/// A run of one sequence's tokens to compute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Whose.
    pub sequence: u64,
    /// Which.
    pub tokens: Range<usize>,
    /// Whether the sequence's last token is among them, so that the next is drawn.
    pub draws: bool,
}

/// Every decoding sequence's one token, and prompt and observation tokens of the others, at most `prefill_tokens` of these.
///
/// A sequence that others wait for stops one token before the end of its prompt, where they fork off.
pub fn schedule(sequences: &BTreeMap<u64, Sequence>, prefill_tokens: usize) -> Vec<Chunk> {
    let mut budget = prefill_tokens;
    let mut chunks = Vec::new();
    for (&number, sequence) in sequences.iter().filter(|(_, sequence)| sequence.is_running()) {
        let end = match sequence.prompt_role {
            PromptRole::Leads => sequence.prompt_tokens() - 1,
            PromptRole::Alone | PromptRole::Waits => sequence.ids.len(),
        };
        let wanted = end - sequence.computed;
        let granted = if wanted == 1 { 1 } else { wanted.min(budget) };
        if granted == 0 {
            continue;
        }
        if wanted > 1 {
            budget -= granted;
        }
        let tokens = sequence.computed..sequence.computed + granted;
        chunks.push(Chunk { sequence: number, draws: tokens.end == sequence.ids.len(), tokens });
    }
    chunks
}
