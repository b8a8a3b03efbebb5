//! The keys of `[data.curriculum]`.

use serde::{Deserialize, Serialize};

/// Which rows of files GRPO draws, by how hard they are. A row's pass rate is the mean score of the reward `answer` over the rollouts of its last group;
/// before its first it is what the row's column `pass_rate` says. A row without a pass rate is always drawn.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumSettings {
    /// Each epoch draws the rows whose pass rate lies between these two, the two left out. With `[0.0, 1.0]` those are the rows that are neither always
    /// wrong nor always right (Skywork-OR1, He et al. 2025); below 0 or above 1 there is no bound on that side.
    pub pass_rate: [f64; 2],
    /// The share of the other rows that an epoch draws too, so that they are measured again; 0 leaves them out for good.
    pub outside_share: f64,
    /// Draw the rows of the first epoch from the largest `pass_rate` to the smallest (curriculum sampling, Kimi k1.5 2025). Each row needs that column.
    pub easy_first: bool,
}

impl Default for CurriculumSettings {
    fn default() -> CurriculumSettings {
        CurriculumSettings { pass_rate: [0.0, 1.0], outside_share: 0.1, easy_first: false }
    }
}
