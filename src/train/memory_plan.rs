//! What a run needs of the machine's memory, added up from shapes before anything is loaded.
//!
//! [`MemoryPlan`] adds up what is resident (weights, remainders, moments, a reference), what a rollout adds (pages, a step's activations), what
//! an update adds (gradients, a micro-batch's activations). A rollout and an update never overlap, so the plan is the resident part and the larger
//! of the two. Pages die with the weights that filled them anyway: the engine gives their memory back before an update, and gradients live from
//! the first micro-batch to the update. Where the plan does not fit, and the recipe leaves the size of the cache open, the cache shrinks first
//! ([`super::sizes::fit_to_memory`]).
//!
//! On CUDA the plan's bytes are an arena ([`crate::ops::arena_bytes`]). `tests/it/memory.rs` drives rollouts and updates of a 7B and a 2B on a
//! device that has addresses but no memory, and holds the plan against what they take: within 3 %, and nothing beyond.

use std::fmt;

use super::learner::LearnerSettings;
use crate::engine::EngineLimits;
use crate::engine::sizing::{EngineFootprint, PageDemand};
use crate::engine::speculation::Speculation;
use crate::model::config::Config;
use crate::model::footprint::{BlockFootprint, packed_bytes, tower_patches, weights_bytes};
use crate::model::parameters::{Layout, Spec};
use crate::ops::adamw::MOMENT_BLOCK;
use crate::ops::footprint::Footprint;
use crate::ops::token_logprob::LOGITS_MAX;
use crate::ops::{arena_bytes, usable_bytes};
use crate::recipe::optimizer::Optim;
use crate::telemetry::memory::readable_bytes;

/// The term that can shrink by itself.
const PAGES: &str = "keys and values";

const SMALLER_MODEL: &str = "take a smaller checkpoint as `model.path`";

/// What a run's memory depends on.
#[derive(Clone, Debug)]
pub struct Sizes<'a> {
    /// The model.
    pub config: &'a Config,
    /// The largest area of an image as the model sees it.
    pub max_pixels: u64,
    /// What tensors take on the device.
    pub footprint: Footprint,
    /// What is trained of the model, and how.
    pub learner: LearnerSettings,
    /// Tokens of one forward and backward.
    pub micro_batch_tokens: usize,
    /// Rollouts, where there are any.
    pub rollout: Option<RolloutSizes>,
    /// The reference of the loss, where it has one.
    pub reference: Option<&'a Config>,
    /// The judge beside the policy, where there is one.
    pub judge: Option<JudgeSizes<'a>>,
}

/// What the memory of a step's rollouts depends on.
#[derive(Clone, Copy, Debug)]
pub struct RolloutSizes {
    /// Sizes of the engine.
    pub limits: EngineLimits,
    /// Whether the engine drafts.
    pub speculation: Speculation,
    /// Sequences of a step.
    pub sequences: usize,
}

/// What the memory of a judge beside the policy depends on.
#[derive(Clone, Copy, Debug)]
pub struct JudgeSizes<'a> {
    /// Its model.
    pub config: &'a Config,
    /// Sizes of its engine.
    pub limits: EngineLimits,
}

impl JudgeSizes<'_> {
    /// Bytes of an arena for it.
    pub fn arena(self, footprint: Footprint) -> u64 {
        arena_bytes(self.terms(footprint).iter().map(|(_, bytes)| bytes).sum())
    }

    /// What it holds all the time, with all that its engine may come to hold. It sees no images, and does not draft.
    fn terms(self, footprint: Footprint) -> [(&'static str, u128); 3] {
        let JudgeSizes { config, limits } = self;
        let layout = Layout::new(config);
        let engine = EngineFootprint { config, max_pixels: 0, speculation: Speculation::Off, footprint };
        [
            ("judge: weights (bf16)", weights_bytes(&layout) + packed_bytes(&layout, footprint)),
            ("judge: keys and values", engine.pages_bytes(limits)),
            ("judge: activations of a step", engine.step_bytes(limits, limits.sequences)),
        ]
    }
}

/// When a part of the memory is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// From the start to the end.
    Resident,
    /// While sequences are sampled; gone before an update.
    Rollout,
    /// While gradients are added up; gone before a rollout.
    Update,
}

/// One row of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryTerm {
    /// What it is.
    pub name: &'static str,
    /// When it is there.
    pub phase: Phase,
    /// Bytes that it takes in its phase.
    pub bytes: u128,
    /// The key that shrinks it, as a remedy.
    pub shrink: String,
}

/// What a run holds in memory, a row for each part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// Elements of all parameters.
    pub parameters: u128,
    /// Of these, trained.
    pub trained: u128,
    /// All that is held at some time.
    pub terms: Vec<MemoryTerm>,
    /// Bytes of the terms that are the judge's, which has a memory of its own.
    pub judge: u128,
}

/// More memory than there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the run needs {needed} of memory and {available} are available; the largest part is {largest} with {size}: {remedy}"
)]
pub struct MemoryError {
    /// All of it.
    needed: String,
    /// What there is.
    available: String,
    /// The largest term.
    largest: &'static str,
    /// Size of the largest term, with its unit.
    size: String,
    /// The key that shrinks it.
    remedy: String,
}

impl MemoryPlan {
    /// Adds the terms of a run up.
    pub fn new(sizes: &Sizes<'_>) -> MemoryPlan {
        let layout = Layout::new(sizes.config);
        let trained = trained(sizes, &layout).map(|spec| spec.stored_len() as u128).sum();
        let parameters = layout.specs.iter().map(|spec| spec.stored_len() as u128).sum();
        let mut plan = MemoryPlan { parameters, trained, terms: Vec::new(), judge: 0 };
        plan.add_resident(sizes, &layout);
        if let Some(judge) = sizes.judge {
            plan.add_judge(judge, sizes.footprint);
        }
        if let Some(rollout) = sizes.rollout {
            plan.add_rollout(sizes, rollout);
        }
        plan.add_update(sizes, &layout);
        plan
    }

    fn add(&mut self, phase: Phase, name: &'static str, bytes: u128, shrink: &str) {
        if bytes > 0 {
            self.terms.push(MemoryTerm { name, phase, bytes, shrink: shrink.to_owned() });
        }
    }

    fn add_resident(&mut self, sizes: &Sizes<'_>, layout: &Layout) {
        let (weights, packed) = (weights_bytes(layout), packed_bytes(layout, sizes.footprint));
        let (optim, freeze) = (sizes.learner.optimizer.optim, freeze(&sizes.learner));
        self.add(Phase::Resident, "weights (bf16)", weights, SMALLER_MODEL);
        self.add(Phase::Resident, "weights, packed (bf16)", packed, SMALLER_MODEL);
        self.add(Phase::Resident, "master remainders (16 bits)", 2 * held(sizes, layout), &freeze);
        let moments = trained(sizes, layout).map(|spec| moments_bytes(spec, optim)).sum();
        let (name, shrink) = match optim {
            Optim::Adamw => ("moments (fp32)", format!("set `optimizer.optim` to \"adamw_8bit\", or {freeze}")),
            Optim::Adamw8bit => ("moments (8 bits)", freeze),
        };
        self.add(Phase::Resident, name, moments, &shrink);
        let of_reference = |config| {
            let layout = Layout::new(config);
            weights_bytes(&layout) + packed_bytes(&layout, sizes.footprint)
        };
        let shrink = if sizes.rollout.is_some() { "set `grpo.beta` to 0" } else { SMALLER_MODEL };
        let reference = sizes.reference.map_or(0, of_reference);
        self.add(Phase::Resident, "reference (bf16)", reference, shrink);
    }

    /// The judge is there for the whole run.
    fn add_judge(&mut self, judge: JudgeSizes<'_>, footprint: Footprint) {
        for (name, bytes) in judge.terms(footprint) {
            let shrink =
                "lower `reward.judge.parallel_requests`, or take a smaller checkpoint as `reward.judge.model_path`";
            self.add(Phase::Resident, name, bytes, shrink);
            self.judge += bytes;
        }
    }

    fn add_rollout(&mut self, sizes: &Sizes<'_>, rollout: RolloutSizes) {
        let (config, max_pixels, speculation) = (sizes.config, sizes.max_pixels, rollout.speculation);
        let engine = EngineFootprint { config, max_pixels, speculation, footprint: sizes.footprint };
        let shrink = "lower `environment.max_total_tokens` or `grpo.prompts_per_step`, or set `engine.kv_cache_bytes`";
        self.add(Phase::Rollout, PAGES, engine.pages_bytes(rollout.limits), shrink);
        let step = engine.step_bytes(rollout.limits, rollout.sequences);
        self.add(Phase::Rollout, "activations of a step", step, "lower `engine.prefill_chunk_tokens`");
    }

    fn add_update(&mut self, sizes: &Sizes<'_>, layout: &Layout) {
        self.add(Phase::Update, "gradients (fp32)", 4 * held(sizes, layout), &freeze(&sizes.learner));
        let shrink = match sizes.learner.activation_recompute {
            true => "lower `training.micro_batch_tokens`",
            false => "lower `training.micro_batch_tokens`, or set `model.activation_recompute = true`",
        };
        let of_reference = sizes.reference.map_or(0, |config| forward_bytes(sizes, config));
        let activations = activations_bytes(sizes, layout).max(of_reference);
        self.add(Phase::Update, "activations of a micro-batch", activations, shrink);
    }

    /// The most that is held at a time.
    pub fn total(&self) -> u128 {
        self.of(Phase::Resident) + self.of(self.largest_phase())
    }

    /// Bytes of an arena for it, but for what is the judge's.
    pub fn arena(&self) -> u64 {
        arena_bytes(self.total() - self.judge)
    }

    /// Bytes of an arena for the judge.
    pub fn judge_arena(&self) -> u64 {
        arena_bytes(self.judge)
    }

    /// Bytes of keys and values, if these alone make a rollout too large for `available` bytes, and the least of what they are to hold can do
    /// with less. The plan is one of an engine with all the pages of `demand`.
    pub fn pages_that_fit(&self, demand: PageDemand, available: u64) -> Option<u64> {
        let is_pages = |term: &&MemoryTerm| term.name == PAGES;
        let wanted = self.terms.iter().find(is_pages)?.bytes;
        let others = self.of(Phase::Resident) + self.of(Phase::Rollout) - wanted;
        let spare = usable_bytes(available)?.checked_sub(others).filter(|spare| *spare < wanted)?;
        let least = wanted * demand.least as u128 / demand.all as u128;
        (spare >= least).then_some(spare as u64)
    }

    /// What a phase alone holds.
    pub fn of(&self, phase: Phase) -> u128 {
        self.terms.iter().filter(|term| term.phase == phase).map(|term| term.bytes).sum()
    }

    fn largest_phase(&self) -> Phase {
        if self.of(Phase::Rollout) > self.of(Phase::Update) { Phase::Rollout } else { Phase::Update }
    }

    /// Refuses what does not fit into `available` bytes.
    ///
    /// # Errors
    /// [`MemoryError`] with the largest term and the key that shrinks it.
    pub fn check(&self, available: u64) -> Result<(), MemoryError> {
        let held_then = [Phase::Resident, self.largest_phase()];
        let terms = self.terms.iter().filter(|term| held_then.contains(&term.phase));
        let Some(largest) = terms.max_by_key(|term| term.bytes) else { return Ok(()) };
        if self.total() <= u128::from(available) {
            return Ok(());
        }
        Err(MemoryError {
            needed: readable_bytes(self.total()),
            available: readable_bytes(u128::from(available)),
            largest: largest.name,
            size: readable_bytes(largest.bytes),
            remedy: largest.shrink.clone(),
        })
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32}{:>14}", "parameters", billions(self.parameters))?;
        writeln!(f, "{:<32}{:>14}", "trained", billions(self.trained))?;
        let phases = [(Phase::Resident, "resident"), (Phase::Rollout, "in a rollout"), (Phase::Update, "in an update")];
        for (phase, name) in phases.into_iter().filter(|(phase, _)| self.of(*phase) > 0) {
            writeln!(f, "{name:<32}{:>14}", readable_bytes(self.of(phase)))?;
            for term in self.terms.iter().filter(|term| term.phase == phase) {
                writeln!(f, "  {:<30}{:>14}", term.name, readable_bytes(term.bytes))?;
            }
        }
        writeln!(f, "{:<32}{:>14}", "most at a time", readable_bytes(self.total()))
    }
}

/// The parameters that are trained.
fn trained<'a>(sizes: &'a Sizes<'_>, layout: &'a Layout) -> impl Iterator<Item = &'a Spec> {
    layout.specs.iter().filter(|spec| sizes.learner.is_trained(spec.part))
}

/// Their elements, padding among them.
fn held(sizes: &Sizes<'_>, layout: &Layout) -> u128 {
    trained(sizes, layout).map(|spec| spec.len() as u128).sum()
}

/// How less of the model is trained.
fn freeze(learner: &LearnerSettings) -> String {
    match learner.freeze_vision_tower && learner.freeze_merger {
        true => SMALLER_MODEL.to_owned(),
        false => format!("set `model.freeze_vision_tower` and `model.freeze_merger`, or {SMALLER_MODEL}"),
    }
}

/// Both moments of a parameter.
fn moments_bytes(spec: &Spec, optim: Optim) -> u128 {
    let each = match optim.is_8bit(spec.role) {
        true => spec.len() + spec.len().div_ceil(MOMENT_BLOCK) * size_of::<f32>(),
        false => spec.len() * size_of::<f32>(),
    };
    2 * each as u128
}

fn billions(count: u128) -> String {
    format!("{:.2} G", count as f64 / 1e9)
}

/// The most that one forward and backward holds: what backward needs of every layer, the gradients of the head or those of a layer, and the
/// vision tower over as many image tokens as fit in (while it is frozen, before the language model's share).
fn activations_bytes(sizes: &Sizes<'_>, layout: &Layout) -> u128 {
    let (config, learner, tokens) = (sizes.config, &sizes.learner, sizes.micro_batch_tokens as u128);
    let element = sizes.footprint.activation_bytes as u128;
    let layer = BlockFootprint::decoder(config, layout);
    let kept = layer.kept(config.layers, learner.activation_recompute) + 2 * layer.dim;
    let language = tokens * kept * element + head_bytes(sizes, layer.dim).max(tokens * layer.backward * element);
    let patches = tower_patches(config, sizes.micro_batch_tokens, sizes.max_pixels);
    let tower = BlockFootprint::vision(config, layout);
    match learner.freeze_vision_tower {
        true => language.max(patches * tower.forward() * element),
        false => {
            let kept = tower.kept(config.vision.as_ref().map_or(0, |vision| vision.depth), false);
            language + patches * (kept + 4 * tower.dim + tower.backward) * element
        }
    }
}

/// The most that a forward of another model holds, which keeps nothing.
fn forward_bytes(sizes: &Sizes<'_>, config: &Config) -> u128 {
    let layout = Layout::new(config);
    let (tokens, element) = (sizes.micro_batch_tokens as u128, sizes.footprint.activation_bytes as u128);
    let decoder = BlockFootprint::decoder(config, &layout);
    let patches = tower_patches(config, sizes.micro_batch_tokens, sizes.max_pixels);
    let tower = patches * BlockFootprint::vision(config, &layout).forward() * element;
    (tokens * decoder.forward() * element + head_bytes(sizes, decoder.dim)).max(tower)
}

/// What the head's backward holds: logits with their gradients, and the sums of its input's, in f32.
fn head_bytes(sizes: &Sizes<'_>, dim: u128) -> u128 {
    let (tokens, float) = (sizes.micro_batch_tokens as u128, size_of::<f32>() as u128);
    let logits = (tokens * sizes.config.vocab as u128).min(LOGITS_MAX as u128);
    logits * (float + sizes.footprint.activation_bytes as u128) + tokens * dim * float
}
