//! The keys of `[grpo]`.

use serde::{Deserialize, Deserializer, Serialize};

use crate::rollout::branching::{BranchAt, Branching};

/// Group-relative policy optimisation (Shao et al. 2024) and its variants.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoSettings {
    /// Tasks a step rolls out.
    pub prompts_per_step: usize,
    /// Tasks that are rolled out for each that is learned from: those whose rewards differ most (PyVision-RL 2026); 1 learns from all.
    pub oversampling: f64,
    /// Times that a step may roll out so many tasks until `prompts_per_step` groups have a signal (DAPO's dynamic sampling, Yu et al. 2025; verl's
    /// `filter_groups`); 1 takes the first batch as it is. A step that has fewer at the end learns from these.
    pub max_num_gen_batches: usize,
    /// What takes the place of groups without a signal.
    pub refill: Refill,
    /// Rollouts of each task: the group that an advantage is relative to.
    pub num_generations: usize,
    /// Where rollouts of a group part from another whose beginning they share (prefix branching, AXPO 2026); none share one where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch_at: Option<BranchAt>,
    /// Rollouts that begin alike where `branch_at` is given; `num_generations` is a multiple of it.
    pub branch_rollouts: usize,
    /// Updates made from one batch of rollouts.
    pub num_iterations: usize,
    /// Parts that a batch is cut into, task by task, each an update of its own with a mean over its own rollouts: verl's
    /// `ppo_mini_batch_size` is `prompts_per_step` by it. Later ones learn from rollouts of earlier weights.
    pub num_mini_batches: usize,
    /// How a rollout's reward becomes its advantage over its group.
    pub advantage: AdvantageEstimator,
    /// What advantages are divided by. Where absent, what the estimator's paper has: `group` for `grpo` and `hdpo`, `batch` for
    /// `reinforce++`, else `none`.
    #[serde(deserialize_with = "scale_or_flag", skip_serializing_if = "Option::is_none")]
    pub scale_rewards: Option<ScaleRewards>,
    /// Only for `hdpo`: weight of the advantage in tool economy beside that in reward; Metis has 0.15.
    pub tool_economy_weight: f64,
    /// Weight of the KL divergence from the reference; 0 keeps no reference.
    pub beta: f64,
    /// The reference: a checkpoint folder, or `org/name` in the local Hugging Face cache, of any size, with the policy's tokens and image tokens. The
    /// weights that the run starts from where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_model: Option<String>,
    /// The reference moves towards the policy every so many steps; 0 never. verifiers has 100.
    pub ref_model_sync_steps: u64,
    /// The share of the policy in the reference's new weights.
    pub ref_model_mixup_alpha: f64,
    /// How the KL divergence is estimated from the log-probabilities of a sampled token (Schulman 2020).
    pub kl_estimator: KlEstimator,
    /// Whether the KL divergence is a term of the loss, or taken off the reward before advantages, summed over a rollout's tokens.
    pub kl_in: KlIn,
    /// The probability ratio is clipped below `1 − epsilon`.
    pub epsilon: f64,
    /// And above `1 + epsilon_high`; `epsilon` where absent. For `cispo` it is itself the largest ratio, as in TRL.
    pub epsilon_high: Option<f64>,
    /// The largest ratio of a token with a negative advantage (dual clip, Ye et al. 2020; verl's `clip_ratio_c`, 3.0 there); none where absent.
    pub delta: Option<f64>,
    /// A rollout whose mean loss of the policy is above this counts as 1 and has no gradient of it; Pixel Reasoner has 10. None where absent.
    pub loss_clamp: Option<f64>,
    /// The surrogate of a token's policy gradient, and how token losses are averaged.
    pub loss_type: LossType,
    /// Weight of the mean entropy of the tokens with a policy gradient, at temperature 1, which is taken off the loss; 0 for none.
    pub entropy_coef: f64,
    /// Only this share of a mini-batch's tokens has a policy gradient: those with the largest entropies when they were sampled (Wang et al.
    /// 2025); 1 for all.
    pub top_entropy_quantile: f64,
    /// Only for `sapo`: steepness of the gate for positive advantages.
    pub sapo_temperature_pos: f64,
    /// Only for `sapo`: steepness of the gate for negative advantages.
    pub sapo_temperature_neg: f64,
    /// Which rollouts and tokens they are averaged over.
    pub loss_denominator: LossDenominator,
    /// Leave groups whose advantages are all 0 out of the policy gradient, where they add nothing; without a KL divergence they need
    /// not be computed.
    pub filter_zero_advantage: bool,
    /// Leave rollouts that ran out of tokens out of the loss; they still count among the sequences that were sampled.
    pub mask_truncated_completions: bool,
    /// Leave rollouts that ran out of turns or calls before they answered out of the loss, as Mini-o3 does, so that long thinking is not punished.
    pub mask_over_turn_completions: bool,
    /// Leave what tools and users say out of the loss. Where not, observations are learned as the model's own words are, with the rollout's
    /// advantage, but for images (verifiers).
    pub mask_env_responses: bool,
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
            oversampling: 1.0,
            max_num_gen_batches: 1,
            refill: Refill::None,
            num_generations: 8,
            branch_at: None,
            branch_rollouts: 2,
            num_iterations: 1,
            num_mini_batches: 1,
            advantage: AdvantageEstimator::Grpo,
            scale_rewards: None,
            tool_economy_weight: 0.15,
            beta: 0.0,
            ref_model: None,
            ref_model_sync_steps: 0,
            ref_model_mixup_alpha: 0.5,
            kl_estimator: KlEstimator::K3,
            kl_in: KlIn::Loss,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            loss_clamp: None,
            loss_type: LossType::Grpo,
            entropy_coef: 0.0,
            top_entropy_quantile: 1.0,
            sapo_temperature_pos: 1.0,
            sapo_temperature_neg: 1.05,
            loss_denominator: LossDenominator::Sampled,
            filter_zero_advantage: true,
            mask_truncated_completions: true,
            mask_over_turn_completions: false,
            mask_env_responses: true,
            train_zero_temperature_tokens: false,
            kl_zero_temperature_tokens: false,
            logprob: LogprobKind::Temperature,
        }
    }
}

impl GrpoSettings {
    /// What advantages are divided by.
    pub fn scale(&self) -> ScaleRewards {
        self.scale_rewards.unwrap_or(match self.advantage {
            AdvantageEstimator::Grpo | AdvantageEstimator::Hdpo => ScaleRewards::Group,
            AdvantageEstimator::ReinforcePlusPlus => ScaleRewards::Batch,
            AdvantageEstimator::MeanOnly | AdvantageEstimator::Rloo | AdvantageEstimator::DrGrpo => ScaleRewards::None,
        })
    }

    /// How groups branch.
    pub fn branching(&self) -> Option<Branching> {
        self.branch_at.map(|at| Branching { at, rollouts: self.branch_rollouts })
    }

    /// Tasks that are rolled out at a time.
    pub fn tasks_per_batch(&self) -> usize {
        (self.oversampling * self.prompts_per_step as f64).ceil() as usize
    }

    /// Updates made from the rollouts of one step.
    pub fn updates_per_step(&self) -> usize {
        self.num_iterations * self.num_mini_batches
    }

    /// Whether a token without an advantage has a part in the loss: a KL divergence, or its entropy.
    pub fn has_loss_without_advantage(&self) -> bool {
        (self.beta > 0.0 && self.kl_in != KlIn::Reward) || self.entropy_coef > 0.0
    }

    /// Weight of the KL divergence in the loss; 0 where it is taken off rewards or advantages.
    pub fn beta_in_loss(&self) -> f64 {
        if self.kl_in == KlIn::Loss { self.beta } else { 0.0 }
    }
}

/// What takes the place of groups without a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refill {
    /// Nothing.
    None,
    /// Copies of those with a signal (Pixel Reasoner's filter).
    Repeat,
    /// Rollouts of earlier steps, drawn by the size of their advantages, until half as many as a step has can teach (Pixel Reasoner's selective
    /// sample replay). They keep their advantages and the log-probabilities of the weights that sampled them.
    Replay,
}

/// How a rollout's reward becomes its advantage. The divisor is that of `scale_rewards`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageEstimator {
    /// Less the group's mean (GRPO, Shao et al. 2024).
    Grpo,
    /// The same, by default not divided (Pixel Reasoner).
    MeanOnly,
    /// Less the mean of the others of its group (RLOO, Ahmadian et al. 2024).
    Rloo,
    /// The same as `mean_only` (Dr. GRPO, Liu et al. 2025).
    DrGrpo,
    /// Less the mean over the batch's tokens, divided by their standard deviation, each token having its rollout's reward
    /// (REINFORCE++, Hu 2025, as verl computes it with a discount of 1).
    #[serde(rename = "reinforce++")]
    ReinforcePlusPlus,
    /// That of `grpo` in reward, plus `tool_economy_weight` times that in `1 / (1 + calls)` among the group's right answers alone
    /// (HDPO, Metis 2026). Both are added before the ratio is clipped.
    Hdpo,
}

/// What advantages are divided by. The values of TRL; true is `group`, and false `none`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The unbiased standard deviation of the group's rewards plus 1e-4.
    Group,
    /// That of all rewards of the batch plus 1e-4 (Lite PPO, Liu et al. 2025).
    Batch,
    /// Nothing.
    None,
}

/// `scale_rewards` as TRL takes it: a name, or whether there is a divisor.
fn scale_or_flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ScaleRewards>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "one of \"group\", \"batch\", \"none\", true, false")]
    enum Given {
        Flag(bool),
        Scale(ScaleRewards),
    }
    Ok(Some(match Given::deserialize(deserializer)? {
        Given::Flag(true) => ScaleRewards::Group,
        Given::Flag(false) => ScaleRewards::None,
        Given::Scale(scale) => scale,
    }))
}

/// How a token's KL divergence is estimated; `d` is the reference's log-probability less the policy's (Schulman 2020).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `−d`: no bias, may be negative.
    K1,
    /// `d² / 2`.
    K2,
    /// `e^d − d − 1`: no bias, never negative.
    K3,
}

/// Where the KL divergence counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KlIn {
    /// A term of each token's loss, as in TRL.
    Loss,
    /// Taken off a rollout's reward, as verl's `use_kl_in_reward` does.
    Reward,
    /// Taken off the advantage of each token, as it was when it was sampled. With a teacher as `ref_model`, `beta = 1` and no rewards this is on-policy
    /// distillation by the reverse KL divergence (Thinking Machines 2025).
    Advantage,
}

/// The surrogate `s` of a token, whose loss is `−s`, and how token losses become one number, always over the whole batch. `r` is the ratio of a
/// token's probability to that under the weights that sampled it, `A` the advantage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// `min(r A, clip(r) A)`. Mean over each sequence's tokens, then over sequences (DeepSeekMath, Shao et al. 2024).
    Grpo,
    /// The same surrogate. Mean over all tokens of the batch (DAPO, Yu et al. 2025).
    Dapo,
    /// TRL's mean over the tokens of what one device computes at a time. Here that is the whole batch, so it is `dapo`.
    Bnpo,
    /// The same surrogate. Sum over tokens by the token limit and the sequences: no length bias (Dr. GRPO, Liu et al. 2025).
    DrGrpo,
    /// As `grpo`, with one ratio for a sequence: the geometric mean of its tokens' (GSPO, Zheng et al. 2025).
    Gspo,
    /// `min(r, epsilon_high) A log π`, the ratio being a constant. Averaged as `dapo` (CISPO, MiniMax 2025).
    Cispo,
    /// `4 / τ · σ(τ (r − 1)) A`, a gate in place of the clip, with `τ` by the sign of `A`. Averaged as `grpo` (SAPO, Gao et al. 2025).
    Sapo,
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
