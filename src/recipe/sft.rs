//! The keys of `[sft]`.

use serde::{Deserialize, Serialize};

/// What supervised fine-tuning learns.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSettings {
    /// Which of the model's turns are learned.
    pub train_turns: TrainTurns,
}

/// Which turns of a demonstration are learned; a turn ends with an observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainTurns {
    /// All of them.
    #[default]
    All,
    /// What stands behind the last observation.
    Last,
    /// What stands behind the second-to-last observation: the last code and the final text (Thyme's SFT).
    LastTwo,
}
