//! The keys of `[dpo]`.

use serde::{Deserialize, Serialize};

/// Direct preference optimisation (Rafailov et al. 2023). The reference is the starting weights, which stay as they are.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoSettings {
    /// How strongly the policy is held near the reference: rewards are `beta` times log-ratios. In `ipo` it is the regularisation τ.
    pub beta: f64,
    /// What is minimised of a pair.
    pub loss_type: PreferenceLoss,
    /// Share of pairs whose labels are taken to be the wrong way round, below 0.5 (conservative DPO); only for `sigmoid`.
    pub label_smoothing: f64,
}

impl Default for DpoSettings {
    fn default() -> DpoSettings {
        DpoSettings { beta: 0.1, loss_type: PreferenceLoss::Sigmoid, label_smoothing: 0.0 }
    }
}

/// The loss of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// The negative log-likelihood of the preference under the Bradley-Terry model.
    #[default]
    Sigmoid,
    /// The squared distance of the margin from `1 / (2 beta)` (Azar et al. 2023), log-ratios averaged over the tokens of each completion as TRL does.
    Ipo,
}
