//! How sequences are rolled out.

use serde::{Deserialize, Serialize};

use super::branching::Branching;
use super::generator::Sampling;
use super::repetition::RepetitionSettings;

/// How to roll out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSettings {
    /// Sequences of each task.
    pub group_size: usize,
    /// How a group's sequences share beginnings; none where absent.
    pub branching: Option<Branching>,
    /// Index of the first task in the run as a whole; with the group size it numbers the sequences.
    pub first_task: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// Strings that end a sequence, besides those of the environment, which end a turn.
    pub stop: Vec<String>,
    /// Tokens that end a sequence; `<|im_end|>` and `<|endoftext|>` where there are none.
    pub eos: Vec<u32>,
    /// When a turn counts as repeating itself.
    pub repetition: RepetitionSettings,
    /// Threads for tools; 0 takes as many as the environment can use: one for each core if its tool computes.
    pub tool_threads: usize,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            group_size: 1,
            branching: None,
            first_task: 0,
            seed: 0,
            sampling: Sampling::default(),
            stop: Vec::new(),
            eos: Vec::new(),
            repetition: RepetitionSettings::default(),
            tool_threads: 0,
        }
    }
}
