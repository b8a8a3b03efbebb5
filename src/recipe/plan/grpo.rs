//! What cannot be among the keys of `[grpo]`.

use super::error::{PlanError, value};
use crate::checkpoint::Checkpoint;
use crate::recipe::{GrpoSettings, KlIn, LossType, Recipe, Refill};

/// A reference that reads what the policy reads: its tokens, and its images.
pub(super) fn check_reference(
    recipe: &Recipe,
    policy: &Checkpoint,
    reference: Option<&Checkpoint>,
) -> Result<(), PlanError> {
    let Some(reference) = reference else { return Ok(()) };
    let (own, other) = (&policy.config, &reference.config);
    let wrong = |problem: String| value("grpo.ref_model", format!("{:?}", reference.dir), problem);
    if own.vocab != other.vocab {
        return wrong(format!(
            "it has {} tokens, and the policy {}; give one with the same tokenizer",
            other.vocab, own.vocab
        ));
    }
    if own.placeholders() != other.placeholders() || own.merge() != other.merge() {
        return wrong("its image tokens are others than the policy's; give a model of the same family".to_owned());
    }
    if recipe.grpo.ref_model_sync_steps > 0 && own != other {
        return wrong(
            "its config is not the policy's, and `grpo.ref_model_sync_steps` mixes the two; set that to 0".to_owned(),
        );
    }
    Ok(())
}

/// Keys of `[grpo]` that contradict others.
pub(super) fn check_grpo(grpo: &GrpoSettings) -> Result<(), PlanError> {
    let no_kl = "there is no KL divergence while `grpo.beta` is 0; give `grpo.beta` a weight, or remove the key";
    if grpo.kl_zero_temperature_tokens && grpo.beta == 0.0 {
        return value("grpo.kl_zero_temperature_tokens", "true", no_kl);
    }
    if grpo.kl_in != KlIn::Loss && grpo.beta == 0.0 {
        return value("grpo.kl_in", format!("{:?}", grpo.kl_in).to_lowercase(), no_kl);
    }
    if grpo.kl_in == KlIn::Advantage && grpo.refill == Refill::Replay {
        let remedy = "a rollout is replayed by the size of its one advantage, and `grpo.kl_in = \"advantage\"` gives each token its own; \
                      choose another of the two";
        return value("grpo.refill", "\"replay\"", remedy);
    }
    if let Some(path) = grpo.ref_model.as_ref().filter(|_| grpo.beta == 0.0) {
        return value("grpo.ref_model", format!("{path:?}"), no_kl);
    }
    if grpo.ref_model_sync_steps > 0 && grpo.beta == 0.0 {
        return value("grpo.ref_model_sync_steps", grpo.ref_model_sync_steps.to_string(), no_kl);
    }
    if grpo.num_mini_batches > grpo.prompts_per_step {
        let remedy =
            format!("a mini-batch has whole groups; give at most `grpo.prompts_per_step`, {}", grpo.prompts_per_step);
        return value("grpo.num_mini_batches", grpo.num_mini_batches.to_string(), remedy);
    }
    if !grpo.mask_env_responses && grpo.top_entropy_quantile < 1.0 {
        let remedy = "observations were not sampled and have no entropy; set `grpo.top_entropy_quantile` to 1, or remove the key";
        return value("grpo.mask_env_responses", "false", remedy);
    }
    let (rollouts, group) = (grpo.branch_rollouts, grpo.num_generations);
    if grpo.branch_at.is_some() && (rollouts < 2 || !group.is_multiple_of(rollouts)) {
        let remedy = format!("give at least 2, of which `grpo.num_generations`, {group}, is a multiple");
        return value("grpo.branch_rollouts", rollouts.to_string(), remedy);
    }
    let highest = 1.0 + grpo.epsilon_high.unwrap_or(grpo.epsilon);
    if let Some(delta) = grpo.delta.filter(|delta| *delta <= highest) {
        let remedy =
            format!("it limits ratios above the clip; give more than 1 + `grpo.epsilon_high`, {highest}, or remove it");
        return value("grpo.delta", delta.to_string(), remedy);
    }
    let has_clip = !matches!(grpo.loss_type, LossType::Cispo | LossType::Sapo);
    if let Some(delta) = grpo.delta.filter(|_| !has_clip) {
        return value("grpo.delta", delta.to_string(), "the loss types \"cispo\" and \"sapo\" have no clip; remove it");
    }
    Ok(())
}
