//! What a judge was asked.

use std::fmt;

use serde::Serialize;

use super::figures::figure;
use crate::rollout::judge::JudgeCounts;

/// What a judge was asked to score some trajectories.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JudgeReport {
    /// Questions that were put to it.
    pub asked: usize,
    /// Of these, the ones without a reply that can be used.
    pub failed: usize,
    /// Requests that were made again.
    pub retried: usize,
    /// Questions that were answered by the reply to an equal one, and not asked.
    pub cached: usize,
    /// Mean time of a question of `asked`, retries and the waits between them included; NaN of none.
    pub seconds: f64,
    /// The longest time of one; NaN of none.
    pub seconds_max: f64,
}

impl JudgeReport {
    /// Of what was counted.
    pub fn new(counts: &JudgeCounts) -> JudgeReport {
        let JudgeCounts { asked, failed, retried, cached, seconds, seconds_max, .. } = *counts;
        let longest = if asked > 0 { seconds_max } else { f64::NAN };
        JudgeReport { asked, failed, retried, cached, seconds: seconds / asked as f64, seconds_max: longest }
    }
}

/// A row of the table that a person reads.
impl fmt::Display for JudgeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JudgeReport { asked, failed, retried, cached, seconds, seconds_max } = self;
        let [mean, longest] = [*seconds, *seconds_max].map(figure);
        write!(
            f,
            "{:<16}{asked:>8} asked, {failed} failed, {retried} retried, {cached} cached; seconds {mean} mean, {longest} most",
            "judge"
        )
    }
}
