//! DAPO's soft overlong punishment (Yu et al. 2025, equation 13), as TRL's `get_soft_overlong_punishment` computes it.

use serde::{Deserialize, Serialize};

use crate::rollout::reward::{Needs, Reward, Score, View};

/// Settings of the reward `soft_overlong`; the defaults are DAPO's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftOverlongSettings {
    /// Tokens of the model from which on the punishment is whole.
    pub max_completion_length: usize,
    /// Tokens before that over which the punishment grows.
    pub cache: usize,
}

impl Default for SoftOverlongSettings {
    fn default() -> Self {
        Self { max_completion_length: 20_480, cache: 4096 }
    }
}

/// Of a completion of `n` tokens, with `most = max_completion_length`: 0 for `n ≤ most − cache`, `(most − cache − n) / cache` for `n ≤ most`, else
/// −1. Only the model's own tokens count; TRL counts those of tools too.
pub struct SoftOverlong {
    settings: SoftOverlongSettings,
}

impl SoftOverlong {
    /// The reward.
    ///
    /// # Errors
    /// When the cache is larger than the length.
    pub fn new(settings: SoftOverlongSettings) -> Result<Self, String> {
        let SoftOverlongSettings { max_completion_length, cache } = settings;
        match cache <= max_completion_length {
            true => Ok(Self { settings }),
            false => {
                Err(format!("cache is {cache}; give at most max_completion_length, which is {max_completion_length}"))
            }
        }
    }

    fn score(&self, tokens: usize) -> f64 {
        let SoftOverlongSettings { max_completion_length, cache } = self.settings;
        let free = max_completion_length - cache;
        match tokens {
            _ if tokens <= free => 0.0,
            _ if tokens <= max_completion_length => -((tokens - free) as f64) / cache as f64,
            _ => -1.0,
        }
    }
}

impl Reward for SoftOverlong {
    fn needs(&self) -> Needs {
        Needs::Tokens
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(self.score(view.own_tokens))).collect()
    }
}
