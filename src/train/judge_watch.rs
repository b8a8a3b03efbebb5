//! Watches the judge of a run: what a step asked of it becomes metrics, and a judge that answers nothing for several steps ends the run, which would
//! learn from what rules can score alone.

use super::error::TrainError;
use crate::eval::judge_report::JudgeReport;
use crate::rollout::judge::JudgeCounts;
use crate::rollout::reward_set::RewardSettings;
use crate::telemetry::window::{Aggregation, Metric};

/// Steps in a row without an answer that end a run whose recipe says nothing else.
const FAILED_STEPS: u64 = 3;

/// Counts the steps in a row in which a judge was asked and answered nothing.
#[derive(Clone, Copy, Debug)]
pub struct JudgeWatch {
    failed_steps: u64,
    most: u64,
}

impl JudgeWatch {
    /// As the recipe's rewards say.
    pub fn new(settings: &RewardSettings) -> JudgeWatch {
        let most = settings.judge.as_ref().and_then(|judge| judge.max_failed_steps);
        JudgeWatch { failed_steps: 0, most: most.unwrap_or(FAILED_STEPS) }
    }

    /// Takes in what a step asked. One that asked nothing changes nothing.
    ///
    /// # Errors
    /// [`TrainError::Judge`] when so many steps in a row as the recipe allows had no answer.
    pub fn count(&mut self, counts: &JudgeCounts, step: u64) -> Result<(), TrainError> {
        if counts.asked == 0 {
            return Ok(());
        }
        self.failed_steps = if counts.has_failed() { self.failed_steps + 1 } else { 0 };
        if self.failed_steps < self.most {
            return Ok(());
        }
        let reason = counts.last_failure.clone().unwrap_or_default();
        Err(TrainError::Judge { asked: counts.asked, steps: self.failed_steps, step, reason })
    }
}

/// What a step or an evaluation asked of the judge; times are NaN where it asked nothing.
pub fn judge_metrics(counts: &JudgeCounts) -> Vec<Metric> {
    let JudgeReport { asked, failed, retried, cached, seconds, seconds_max } = JudgeReport::new(counts);
    vec![
        Metric::count("judge/asked", asked),
        Metric::count("judge/failed", failed),
        Metric::count("judge/retried", retried),
        Metric::count("judge/cached", cached),
        Metric::mean("judge/seconds", seconds),
        Metric::new("judge/seconds/max", seconds_max, Aggregation::Max),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_in_a_row_without_any_answer_end_the_run() {
        let mut watch = JudgeWatch::new(&RewardSettings::default());
        let counts =
            |asked, failed| JudgeCounts { asked, failed, last_failure: Some("gone".into()), ..Default::default() };
        for (asked, failed) in [(2, 2), (0, 0), (2, 2), (2, 1), (1, 1), (3, 3), (0, 0)] {
            assert!(watch.count(&counts(asked, failed), 1).is_ok(), "{asked} {failed}");
        }
        let message = watch.count(&counts(4, 4), 9).expect_err("the third in a row").to_string();
        for part in
            ["none of 4 questions", "3 steps in a row", "step 9", "gone", "--resume", "`reward.judge.max_failed_steps`"]
        {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    }
}
