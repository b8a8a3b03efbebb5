//! What waits for slots in the engine: what it claims them by, how many it wants, and what being served costs.

use super::command::Queued;
use super::slots::Claim;
use crate::serve::agent::session::PreparedJob;
use crate::serve::metrics::Waiting;

/// Sequences of a request that are opened at once while others wait.
pub(super) const GROUP_MAX: usize = 8;
/// Tokens of an answer that count in the cost of being served once, however long the answer may become.
const ANSWER_COST_MAX: usize = 256;

/// Something that waits for slots in the engine.
pub(super) enum Waiter {
    Job(Queued),
    Agent(Box<PreparedJob>),
    /// A paused sequence, which counts as waiting.
    Paused {
        sequence: u64,
        claim: Claim,
        _waiting: Waiting,
    },
}

impl Waiter {
    /// What it claims slots by.
    pub(super) fn claim(&self) -> Claim {
        match self {
            Waiter::Job(queued) => {
                let job = &queued.job;
                Claim::new(job.client, job.prompt.token_ids.len(), job.n, job.stops.total_tokens)
            }
            Waiter::Agent(prepared) => prepared.claim(),
            Waiter::Paused { claim, .. } => *claim,
        }
    }

    /// Slots that it wants at least.
    pub(super) fn slots(&self) -> usize {
        match self {
            Waiter::Agent(prepared) => prepared.job.settings.group_size,
            Waiter::Job(_) | Waiter::Paused { .. } => 1,
        }
    }

    /// What being served costs: the prompt, and the tokens that its sequences may sample until others are served. Who was paused has paid.
    pub(super) fn cost(&self) -> u64 {
        let (prompt, sequences, tokens) = match self {
            Waiter::Job(queued) => {
                let job = &queued.job;
                (job.prompt.token_ids.len(), queued.answers.len().min(GROUP_MAX), job.stops.total_tokens)
            }
            Waiter::Agent(prepared) => {
                (prepared.prompt_tokens(), prepared.job.settings.group_size, prepared.job.limits.total)
            }
            Waiter::Paused { .. } => return 0,
        };
        (prompt + sequences * tokens.min(ANSWER_COST_MAX)) as u64
    }
}
