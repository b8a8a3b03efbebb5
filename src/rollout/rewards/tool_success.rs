//! How many of the tool calls worked. Logged; without weight unless a recipe gives it one.

use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;

/// The share of the calls within the limit that ran without an error; 0 when there was none.
pub struct ToolSuccess;

impl Reward for ToolSuccess {
    fn name(&self) -> &'static str {
        "tool_success"
    }

    fn default_weight(&self) -> f64 {
        0.0
    }

    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score(&self, view: &View<'_>) -> Score {
        let ran = view.calls.iter().filter(|call| call.output.status != CallStatus::OverLimit);
        let (good, all) = ran.fold((0, 0), |(good, all), call| (good + u32::from(call.output.status.is_ok()), all + 1));
        Score::Value(f64::from(good) / f64::from(all.max(1)))
    }
}
