//! The sizes of a recipe's run: of the engine that its rollouts run on, of the learner, and of what its memory plan counts.

use super::learner::LearnerSettings;
use super::local_judge::judge_limits;
use super::memory_plan::{JudgeSizes, MemoryPlan, RolloutSizes, Sizes};
use crate::engine::EngineLimits;
use crate::engine::kv_cache::KvCache;
use crate::engine::sizing::{EngineSize, PageDemand};
use crate::ops::footprint::Footprint;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::{ImageSettings, Processor};
use crate::recipe::plan::Plan;
use crate::recipe::{Method, Recipe};

/// What a recipe trains, and how, on pictures that are prepared as `image` says.
pub fn learner_settings(recipe: &Recipe, image: &ImageSettings) -> LearnerSettings {
    LearnerSettings {
        optimizer: recipe.optimizer.clone(),
        freeze_vision_tower: recipe.model.freeze_vision_tower,
        freeze_merger: recipe.model.freeze_merger,
        activation_recompute: recipe.model.activation_recompute,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    }
}

/// Sizes of the engine that a recipe's rollouts run on: pages for all sequences of a step at their longest, unless the recipe says how
/// many bytes.
pub fn engine_limits(plan: &Plan, activation_bytes: usize) -> EngineLimits {
    let engine = &plan.recipe.engine;
    let size = EngineSize {
        sequences: engine.max_num_seqs,
        prefill_chunk_tokens: engine.prefill_chunk_tokens,
        demand: page_demand(plan),
    };
    match engine.kv_cache_bytes {
        0 => size.limits(),
        bytes => size.limits_of(bytes as usize, KvCache::page_bytes(&plan.checkpoint.config, activation_bytes)),
    }
}

/// What the run needs of a device's memory.
pub fn memory_plan(plan: &Plan, processor: &Processor, footprint: Footprint) -> MemoryPlan {
    let (recipe, image) = (&plan.recipe, processor.image_settings());
    let is_grpo = recipe.method == Method::Grpo;
    let longest = match recipe.method {
        Method::Sft => recipe.sft.max_length.unwrap_or(0),
        Method::Grpo => plan.limits.total,
        Method::Dpo => 0,
    };
    let rollout = is_grpo.then(|| RolloutSizes {
        limits: engine_limits(plan, footprint.activation_bytes),
        speculation: recipe.engine.speculation,
        sequences: recipe.grpo.tasks_per_batch() * recipe.grpo.num_generations,
    });
    MemoryPlan::new(&Sizes {
        config: &plan.checkpoint.config,
        max_pixels: image.max_pixels,
        footprint,
        learner: learner_settings(recipe, image),
        micro_batch_tokens: recipe.training.micro_batch_tokens.max(longest),
        rollout,
        reference: match recipe.method {
            Method::Grpo if recipe.grpo.beta > 0.0 => Some(plan.reference.as_ref().unwrap_or(&plan.checkpoint)),
            Method::Dpo => Some(&plan.checkpoint),
            Method::Sft | Method::Grpo => None,
        }
        .map(|reference| &reference.config),
        judge: plan
            .judge
            .as_ref()
            .zip(recipe.reward.judge.as_ref())
            .map(|(checkpoint, settings)| JudgeSizes { config: &checkpoint.config, limits: judge_limits(settings) }),
    })
}

/// The same, after the cache of keys and values was made as small as `available` bytes ask for, where the recipe leaves its size open
/// and a group still fits.
pub fn fit_to_memory(
    plan: &mut Plan,
    processor: &Processor,
    footprint: Footprint,
    available: Option<u64>,
) -> MemoryPlan {
    let memory = memory_plan(plan, processor, footprint);
    if plan.recipe.engine.kv_cache_bytes > 0 {
        return memory;
    }
    let demand = page_demand(plan);
    let Some(bytes) = available.and_then(|available| memory.pages_that_fit(demand, available)) else { return memory };
    plan.recipe.engine.kv_cache_bytes = bytes;
    memory_plan(plan, processor, footprint)
}

/// Pages that the sequences of a step ask for.
fn page_demand(plan: &Plan) -> PageDemand {
    let (grpo, engine) = (&plan.recipe.grpo, &plan.recipe.engine);
    PageDemand::of_groups(grpo.tasks_per_batch(), grpo.num_generations, engine.max_num_seqs, plan.limits.total)
}
