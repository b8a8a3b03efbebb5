//! A judge of which only the settings are known: its checkpoint is not loaded, and it answers nothing.

use crate::rollout::judge::{Judge, JudgeError, Question};

/// The judge of `reward.judge.model_path` before it is loaded.
pub struct Unloaded {
    /// The checkpoint.
    pub model_path: String,
    /// As in its settings.
    pub parallel_requests: usize,
}

impl Judge for Unloaded {
    fn parallel_requests(&self) -> usize {
        self.parallel_requests
    }

    fn answer(&self, _: &Question<'_>) -> Result<String, JudgeError> {
        let Self { model_path, .. } = self;
        Err(JudgeError(format!(
            "`reward.judge.model_path` is {model_path:?}, which only `train` and `eval` load; serve it, and give `reward.judge.base_url` instead"
        )))
    }
}
