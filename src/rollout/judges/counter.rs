//! Counts what a judge is asked.

use std::sync::{Mutex, PoisonError};

use crate::rollout::judge::{JudgeCounts, JudgeError};

/// How a question went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The reply, or why there is none.
    pub reply: Result<String, JudgeError>,
    /// Requests made again.
    pub retries: usize,
    /// Seconds that it took; none where the reply was there.
    pub seconds: Option<f64>,
}

/// Counts questions of many threads.
#[derive(Debug, Default)]
pub struct Counter(Mutex<JudgeCounts>);

impl Counter {
    /// Counts a question.
    pub fn note(&self, outcome: &Outcome) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retried += outcome.retries;
        if let Err(error) = &outcome.reply {
            counts.failed += 1;
            counts.last_failure = Some(error.0.clone());
        }
        match (outcome.seconds, &outcome.reply) {
            (None, Ok(_)) => counts.cached += 1,
            (seconds, _) => {
                let seconds = seconds.unwrap_or(0.0);
                counts.asked += 1;
                counts.seconds += seconds;
                counts.seconds_max = counts.seconds_max.max(seconds);
            }
        }
    }

    /// What was counted since the last call.
    pub fn take(&self) -> JudgeCounts {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
