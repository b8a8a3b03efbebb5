//! How many of the tool calls worked. Logged; without weight unless a recipe gives it one. With the gate `answer` it is Thyme's `code_orm`, the
//! share of outputs that tell of no error.

use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::Call;

/// The share of the calls within the limit that ran without an error; 0 when there was none.
pub struct ToolSuccess;

impl Reward for ToolSuccess {
    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(share_of_successes(view.calls))).collect()
    }
}

fn share_of_successes(calls: &[Call]) -> f64 {
    let ran = calls.iter().filter(|call| call.output.status != CallStatus::OverLimit);
    let (good, all) = ran.fold((0, 0), |(good, all), call| (good + u32::from(call.output.status.is_ok()), all + 1));
    f64::from(good) / f64::from(all.max(1))
}
