//! What a checkpoint of a run holds beside the model's files.

use serde::{Deserialize, Serialize};

use super::curriculum::Curriculum;
use super::learner::Learner;
use super::left_out::LeftOut;
use super::reference_model::ReferenceModel;
use super::replay::ReplayBuffer;
use super::session::SkippedUpdates;

/// No count of a run comes near it, and none that is read can overflow by counting on.
const COUNT_MAX: u64 = 1 << 48;

/// `trainer_state.json`: what a resumed run needs besides weights and optimizer state. Everything else is a function of the recipe
/// and the step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub struct TrainerState {
    /// Steps done when it was saved.
    pub global_step: u64,
    /// Optimizer updates done.
    pub updates: u64,
    /// Updates skipped because their gradient was not finite.
    pub skipped: SkippedUpdates,
    /// Examples drawn and left out.
    #[serde(default)]
    pub left_out: LeftOut,
    /// Tasks that GRPO has drawn, and those that its curriculum has passed over; none of SFT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_drawn: Option<u64>,
}

impl TrainerState {
    /// The key whose value cannot be that of a run saved at `step`, and what is wrong with it.
    pub(super) fn problem(&self, step: u64) -> Option<(&'static str, String)> {
        let counts = [
            ("updates", self.updates),
            ("skipped.total", self.skipped.total),
            ("left_out.drawn", self.left_out.drawn()),
            ("tasks_drawn", self.tasks_drawn.unwrap_or(0)),
        ];
        if self.global_step != step {
            return Some(("global_step", format!("is {}, and the folder's name says {step}", self.global_step)));
        }
        if let Some((key, count)) = counts.into_iter().find(|(_, count)| *count > COUNT_MAX) {
            return Some((key, format!("is {count}, more than any run counts")));
        }
        if self.skipped.in_a_row > self.skipped.total {
            return Some(("skipped.in_a_row", format!("is {}, more than skipped.total", self.skipped.in_a_row)));
        }
        let left_out = self.left_out.total();
        (left_out > self.left_out.drawn())
            .then(|| ("left_out.left_out", format!("is {left_out}, more than left_out.drawn")))
    }
}

/// What a checkpoint holds besides counts.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// The policy's weights and the optimizer's state.
    pub learner: &'a Learner,
    /// The reference, where it follows the policy.
    pub reference: Option<&'a ReferenceModel>,
    /// Rollouts that later steps may replay.
    pub replay: Option<&'a ReplayBuffer>,
    /// How hard which rows have been.
    pub curriculum: Option<&'a Curriculum>,
}

impl<'a> From<&'a Learner> for Saved<'a> {
    fn from(learner: &'a Learner) -> Saved<'a> {
        Saved { learner, reference: None, replay: None, curriculum: None }
    }
}
