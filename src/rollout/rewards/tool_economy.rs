//! What many calls are worth where the answer is right: more in PyVision-RL (arXiv 2602.20739), less in Metis (arXiv 2604.08545).

use serde::{Deserialize, Serialize};

use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::{Call, TurnKind};

/// Settings of the reward `cumulative_tool`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CumulativeToolSettings {
    /// What each turn with a call that ran adds.
    pub per_turn: f64,
    /// Whether a call must have run without an error.
    pub only_successful: bool,
}

impl Default for CumulativeToolSettings {
    fn default() -> Self {
        Self { per_turn: 0.1, only_successful: false }
    }
}

/// `per_turn` for each turn of the model with a call that ran, with an error or without. Counts only where the answer is right. PyVision-RL's
/// total is answer + cumulative_tool.
pub struct CumulativeTool {
    settings: CumulativeToolSettings,
}

impl CumulativeTool {
    /// The reward.
    ///
    /// # Errors
    /// When a number cannot be.
    pub fn new(settings: CumulativeToolSettings) -> Result<Self, String> {
        match settings.per_turn.is_finite() {
            true => Ok(Self { settings }),
            false => Err(format!("per_turn is {}; give a finite number", settings.per_turn)),
        }
    }

    fn counts(&self, call: &Call) -> bool {
        match call.output.status {
            CallStatus::Ok => true,
            CallStatus::Error | CallStatus::Timeout => !self.settings.only_successful,
            CallStatus::Denied | CallStatus::Malformed | CallStatus::OverLimit => false,
        }
    }

    /// Turns with a call that counts. Calls without an observation are those of the last turn.
    fn turns(&self, view: &View<'_>) -> usize {
        let observations = view.turns.iter().filter(|turn| turn.kind == TurnKind::Observation);
        let mut turns: Vec<&[Call]> = observations.filter_map(|turn| view.calls.get(turn.calls.clone())).collect();
        turns.push(&view.calls[turns.iter().map(|calls| calls.len()).sum::<usize>().min(view.calls.len())..]);
        turns.iter().filter(|calls| calls.iter().any(|call| self.counts(call))).count()
    }
}

impl Reward for CumulativeTool {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(self.settings.per_turn * self.turns(view) as f64)).collect()
    }
}

/// `1 / (T + 1)` for T calls that the model wrote, whatever became of them. Counts only where the answer is right.
///
/// What differs from Metis: it normalises the advantage of this reward apart from that of the answer, over the right rollouts of a group.
pub struct ToolEconomy;

impl Reward for ToolEconomy {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(1.0 / (view.calls.len() as f64 + 1.0))).collect()
    }
}
