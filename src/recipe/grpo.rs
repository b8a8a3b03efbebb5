//! The keys of `[grpo]`.

use serde::{Deserialize, Serialize};

/// Group-relative policy optimisation (Shao et al. 2024) and its variants.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoSettings {
    /// Tasks a step rolls out.
    pub prompts_per_step: usize,
    /// Rollouts of each task: the group that an advantage is relative to.
    pub num_generations: usize,
    /// Updates made from one batch of rollouts.
    pub num_iterations: usize,
    /// Weight of the KL divergence (k3 estimator) from the starting weights; 0 keeps no reference.
    pub beta: f64,
    /// The probability ratio is clipped below `1 − epsilon`.
    pub epsilon: f64,
    /// And above `1 + epsilon_high`; `epsilon` where absent.
    pub epsilon_high: Option<f64>,
    /// How token losses are averaged.
    pub loss_type: LossType,
    /// Which rollouts and tokens they are averaged over.
    pub loss_denominator: LossDenominator,
    /// Divide advantages by the group's standard deviation.
    pub scale_rewards: bool,
    /// Leave groups whose rewards are all equal out of the policy gradient, where they add nothing; without a KL divergence they need
    /// not be computed.
    pub filter_zero_advantage: bool,
    /// Leave rollouts that ran out of tokens out of the loss; they still count among the sequences that were sampled.
    pub mask_truncated_completions: bool,
    /// Leave rollouts that ran out of turns or calls before they answered out of the loss, as Mini-o3 does, so that long thinking is not punished.
    pub mask_over_turn_completions: bool,
    /// Learn from tokens sampled at temperature 0 too (code, under adaptive temperature).
    pub train_zero_temperature_tokens: bool,
    /// Hold tokens sampled at temperature 0 near the reference, at temperature 1, though they have no policy gradient. They then count
    /// among the tokens of the loss.
    pub kl_zero_temperature_tokens: bool,
    /// Which log-probability ratio and KL are taken of: `temperature`, of the distribution over the tokens that can be sampled, or `raw`, over
    /// all, placeholders of images and videos too.
    pub logprob: LogprobKind,
}

impl Default for GrpoSettings {
    fn default() -> GrpoSettings {
        GrpoSettings {
            prompts_per_step: 12,
            num_generations: 8,
            num_iterations: 1,
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            loss_type: LossType::Grpo,
            loss_denominator: LossDenominator::Sampled,
            scale_rewards: true,
            filter_zero_advantage: true,
            mask_truncated_completions: true,
            mask_over_turn_completions: false,
            train_zero_temperature_tokens: false,
            kl_zero_temperature_tokens: false,
            logprob: LogprobKind::Temperature,
        }
    }
}

/// How token losses become one number, always over the whole batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over each sequence's tokens, then over sequences (DeepSeekMath, Shao et al. 2024).
    Grpo,
    /// Mean over all tokens of the batch (DAPO, Yu et al. 2025).
    Dapo,
    /// TRL's mean over the tokens of what one device computes at a time. Here that is the whole batch, so it is `dapo`.
    Bnpo,
    /// Sum over tokens by the token limit and the sequences: no length bias (Dr. GRPO, Liu et al. 2025).
    DrGrpo,
}

/// Which rollouts and tokens a loss is averaged over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossDenominator {
    /// As in TRL, the batch that was sampled. Sequences are all rollouts with a token of the model's own. Tokens are those that are learned
    /// in rollouts that are not masked as truncated: groups of equal rewards and unscored rollouts count, and have a KL divergence.
    Sampled,
    /// What the filters keep: rollouts with an advantage, of groups that are not left out, not masked. Nothing else has a KL divergence.
    Kept,
}

/// Which log-probability a loss is a function of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogprobKind {
    /// At temperature 1 over the full vocabulary.
    Raw,
    /// At the temperature that the token was sampled at.
    Temperature,
}
