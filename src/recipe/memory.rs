//! What a plan needs of the machine's memory, added up from shapes before anything is loaded.
//!
//! A run's memory is planned before anything is loaded (`recipe/memory.rs`): what is resident (weights, remainders, moments, a reference), what a
//! rollout adds (pages, a step's activations), what an update adds (gradients, a micro-batch's activations). A rollout and an update never
//! overlap, so the plan is the resident part and the larger of the two. Pages die with the weights that filled them anyway: the engine gives their
//! memory back before an update, and gradients live from the first micro-batch to the update. Where the plan does not fit, and the recipe leaves the
//! size of the cache open, the cache shrinks first.
//!
//! **One arena.** On CUDA the plan's bytes are taken from the device at the start, in one piece, and tensors are cut from it (`cuda/arena.rs`): nothing
//! asks the driver inside a step. Work has one order on a device, so memory that is given back can be cut again at once. What goes beyond the
//! plan is taken from the device piece by piece, and counted (`memory/beyond_arena_gb` in `metrics.jsonl`). `tests/it/memory.rs` drives rollouts and
//! updates of a 7B and a 2B on a device that has addresses but no memory, and holds the plan against what they take: within 3 %, and nothing beyond.
//!
//! **Graph capture.** A launch is data, so a run of launches is too. Most steps of a rollout give every sequence one token; their launches are captured
//! once for each size of batch, and repeated with other values in the same tensors (`Buffers::capture`, `engine/decode_graphs.rs`). A GPU makes a
//! CUDA graph of them, which costs the host one launch instead of several hundred; `simt` plays them one by one. Updates change weights in place, so a
//! graph outlives them. The memory that a graph runs in is its own for as long as it lives.
//!
//! **Staging.** Values for a GPU wait in a ring of pinned memory until the copy is done (`cuda/device/gpu.rs`), and nobody waits for them.
//!
//! After its first step a run shows whose memory is where: the weights stand there once, read by the rollout and written in place by the update.

use std::fmt;

use super::Method;
use super::optimizer::Optim;
use super::plan::{Plan, PlanError};
use crate::engine::EngineLimits;
use crate::engine::decode_graphs::{GRAPHS_MAX, padded_sequences};
use crate::engine::kv_cache::KvCache;
use crate::engine::speculation::{DRAFT_TOKENS_MAX, Speculation};
use crate::model::config::{Config, Family};
use crate::model::parameters::{Layout, Part, Spec};
use crate::ops::Footprint;
use crate::ops::adamw::MOMENT_BLOCK;
use crate::ops::attention::{Heads, PAGE_TOKENS};
use crate::prompt::Processor;

/// Most logits that are held at a time, in f32.
const LOGITS_MAX: u128 = 1 << 24;
/// An arena is larger than what is held by this part of it.
const ARENA_SLACK: u128 = 64;
/// And by these bytes.
const ARENA_SLACK_MIN: u128 = 64 << 20;
/// The term that can shrink by itself.
const PAGES: &str = "keys and values";
/// Prompt tokens that the cache is sized for when the recipe does not size it.
const PROMPT_TOKENS: usize = 1024;

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
}

impl MemoryPlan {
    /// Adds a plan up. `max_pixels` is the largest area of an image as the model sees it.
    pub fn new(plan: &Plan, max_pixels: u64, footprint: Footprint) -> MemoryPlan {
        let (recipe, config, activation_bytes) = (&plan.recipe, &plan.config, footprint.activation_bytes);
        let layout = Layout::new(config);
        let is_trained = |spec: &&Spec| match spec.part {
            Part::Language => true,
            Part::Vision => !recipe.model.freeze_vision_tower,
            Part::Merger => !recipe.model.freeze_merger,
        };
        let parameters = layout.elements() as u128;
        let trained: u128 = layout.specs.iter().filter(is_trained).map(|spec| spec.len() as u128).sum();
        let freeze = match recipe.model.freeze_vision_tower && recipe.model.freeze_merger {
            true => "take a smaller checkpoint as `model.path`",
            false => {
                "set `model.freeze_vision_tower` and `model.freeze_merger`, or take a smaller checkpoint as `model.path`"
            }
        };
        let mut terms = Vec::new();
        let mut add = |phase, name, bytes, shrink: &str| {
            if bytes > 0 {
                terms.push(MemoryTerm { name, phase, bytes, shrink: shrink.to_owned() });
            }
        };
        let smaller = "take a smaller checkpoint as `model.path`";
        let packed = packed_bytes(&layout, footprint);
        add(Phase::Resident, "weights (bf16)", 2 * parameters, smaller);
        add(Phase::Resident, "weights, packed (bf16)", packed, smaller);
        add(Phase::Resident, "master remainders (16 bits)", 2 * trained, freeze);
        let moments =
            layout.specs.iter().filter(is_trained).map(|spec| moments_bytes(spec, recipe.optimizer.optim)).sum();
        let (name, shrink) = match recipe.optimizer.optim {
            Optim::Adamw => ("moments (fp32)", &*format!("set `optimizer.optim` to \"adamw_8bit\", or {freeze}")),
            Optim::Adamw8bit => ("moments (8 bits)", freeze),
        };
        add(Phase::Resident, name, moments, shrink);
        if recipe.method == Method::Grpo {
            let reference = if recipe.grpo.beta > 0.0 { 2 * parameters + packed } else { 0 };
            add(Phase::Resident, "reference (bf16)", reference, "set `grpo.beta` to 0");
            let limits = engine_limits(plan, activation_bytes);
            let page = KvCache::page_bytes(config, activation_bytes) as u128;
            add(
                Phase::Rollout,
                PAGES,
                (limits.pages as u128 + 1) * page,
                "lower `environment.max_total_tokens` or `grpo.prompts_per_step`, or set `engine.kv_cache_bytes`",
            );
            let sequences = recipe.grpo.prompts_per_step * recipe.grpo.num_generations;
            let step = step(config, limits, recipe.engine.speculation, sequences, max_pixels, activation_bytes);
            add(Phase::Rollout, "activations of a step", step, "lower `engine.prefill_chunk_tokens`");
        }
        add(Phase::Update, "gradients (fp32)", 4 * trained, freeze);
        let shrink = match recipe.model.activation_recompute {
            true => "lower `training.micro_batch_tokens`",
            false => "lower `training.micro_batch_tokens`, or set `model.activation_recompute = true`",
        };
        let update = activations(plan, max_pixels, activation_bytes);
        add(Phase::Update, "activations of a micro-batch", update, shrink);
        MemoryPlan { parameters, trained, terms }
    }

    /// The most that is held at a time.
    pub fn total(&self) -> u128 {
        self.of(Phase::Resident) + self.of(self.largest_phase())
    }

    /// Bytes of an arena for it: beside what is held, it has room for what no piece fits into.
    pub fn arena(&self) -> u64 {
        let bytes = self.total() + self.total() / ARENA_SLACK + ARENA_SLACK_MIN;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Bytes of keys and values, if these alone make a rollout too large for `available` bytes and a group can do with less.
    pub fn pages_that_fit(&self, plan: &Plan, available: u64) -> Option<u64> {
        let is_pages = |term: &&MemoryTerm| term.name == PAGES;
        let wanted = self.terms.iter().find(is_pages)?.bytes;
        let others = self.of(Phase::Resident) + self.of(Phase::Rollout) - wanted;
        let usable = u128::from(available).checked_sub(ARENA_SLACK_MIN)? * ARENA_SLACK / (ARENA_SLACK + 1);
        let spare = usable.checked_sub(others).filter(|spare| *spare < wanted)?;
        let group = group_pages(plan, plan.recipe.grpo.num_generations);
        let least = wanted * group as u128 / wanted_pages(plan) as u128;
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
    /// [`PlanError::Memory`] with the largest term and the key that shrinks it.
    pub fn check(&self, available: u64) -> Result<(), PlanError> {
        let held_then = [Phase::Resident, self.largest_phase()];
        let terms = self.terms.iter().filter(|term| held_then.contains(&term.phase));
        let Some(largest) = terms.max_by_key(|term| term.bytes) else { return Ok(()) };
        if self.total() <= u128::from(available) {
            return Ok(());
        }
        Err(PlanError::Memory {
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

impl Plan {
    /// What the run needs of a device's memory.
    pub fn memory(&self, processor: &Processor, footprint: Footprint) -> MemoryPlan {
        MemoryPlan::new(self, processor.image_settings().max_pixels, footprint)
    }

    /// The same, after the cache of keys and values was made as small as `available` bytes ask for, where the recipe leaves its size open
    /// and a group still fits.
    pub fn fit(&mut self, processor: &Processor, footprint: Footprint, available: Option<u64>) -> MemoryPlan {
        let memory = self.memory(processor, footprint);
        let Some(pages) = available.and_then(|available| memory.pages_that_fit(self, available)) else { return memory };
        if self.recipe.engine.kv_cache_bytes > 0 {
            return memory;
        }
        self.recipe.engine.kv_cache_bytes = pages;
        self.memory(processor, footprint)
    }
}

/// What a model's weights take.
pub fn weights_bytes(config: &Config) -> u128 {
    2 * Layout::new(config).elements() as u128
}

/// What this machine has left, where it says so (`MemAvailable` of /proc/meminfo).
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// As tables show it.
pub fn readable_bytes(bytes: u128) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// What a device keeps of matrices besides, laid out for products.
fn packed_bytes(layout: &Layout, footprint: Footprint) -> u128 {
    let is_packed = |spec: &&Spec| spec.len() <= footprint.packed_elements_max;
    layout.matmul_weights().filter(is_packed).map(|spec| 2 * spec.len() as u128).sum()
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

/// Sizes of the engine that a recipe's rollouts run on: pages for all sequences of a step at their longest, unless the recipe says how
/// many bytes.
pub fn engine_limits(plan: &Plan, activation_bytes: usize) -> EngineLimits {
    let recipe = &plan.recipe;
    let pages = match recipe.engine.kv_cache_bytes {
        0 => wanted_pages(plan),
        bytes => bytes as usize / KvCache::page_bytes(&plan.config, activation_bytes),
    };
    EngineLimits {
        pages,
        prefill_chunk_tokens: recipe.engine.prefill_chunk_tokens,
        sequences: recipe.engine.max_num_seqs,
    }
}

/// Pages for all sequences of a step at their longest.
fn wanted_pages(plan: &Plan) -> usize {
    let recipe = &plan.recipe;
    let sequences = (recipe.grpo.prompts_per_step * recipe.grpo.num_generations).min(recipe.engine.max_num_seqs);
    group_pages(plan, sequences) + (recipe.grpo.prompts_per_step - 1) * PROMPT_TOKENS / PAGE_TOKENS
}

/// Pages for sequences on one prompt.
fn group_pages(plan: &Plan, sequences: usize) -> usize {
    sequences * (plan.limits.total.div_ceil(PAGE_TOKENS) + 1) + PROMPT_TOKENS / PAGE_TOKENS
}

/// The most that one forward and backward holds: what backward needs of every layer, the present layer's gradients, the head's logits,
/// and the vision tower over as many image tokens as fit in (while it is frozen, before the language model's share).
fn activations(plan: &Plan, max_pixels: u64, activation_bytes: usize) -> u128 {
    let (recipe, config) = (&plan.recipe, &plan.config);
    let longest = match recipe.method {
        Method::Sft => 0,
        Method::Grpo => plan.limits.total,
    };
    let tokens = recipe.training.micro_batch_tokens.max(longest) as u128;
    let (dim, layers) = (config.dim as u128, config.layers as u128);
    let block = Block::of(config.dim, config.heads, config.hidden, true);
    let kept = match recipe.model.activation_recompute {
        true => layers * 2 * dim + block.saved,
        false => layers * block.saved,
    };
    let logits = (tokens * config.vocab as u128).min(LOGITS_MAX);
    let language = tokens * (kept + block.backward + 2 * dim);
    let (patches, tower) = tower(config, tokens, max_pixels);
    let elements = match recipe.model.freeze_vision_tower {
        true => language.max(patches * tower.forward()),
        false => {
            let depth = config.vision.depth as u128;
            language + patches * (depth * tower.saved + 4 * config.vision.dim as u128 + tower.backward)
        }
    };
    elements * activation_bytes as u128 + logits * size_of::<f32>() as u128
}

/// Pages that `memory` bytes leave an engine which serves beside the weights, if there is room for any; its sizes are `limits`, whatever
/// pages stand there.
pub fn pages_beside_weights(
    config: &Config,
    limits: EngineLimits,
    speculation: Speculation,
    max_pixels: u64,
    footprint: Footprint,
    memory: u64,
) -> Option<usize> {
    let (layout, activation_bytes) = (Layout::new(config), footprint.activation_bytes);
    let weights = 2 * layout.elements() as u128 + packed_bytes(&layout, footprint);
    let step = step(config, limits, speculation, limits.sequences, max_pixels, activation_bytes);
    let usable = u128::from(memory).checked_sub(ARENA_SLACK_MIN)? * ARENA_SLACK / (ARENA_SLACK + 1);
    let pages = usable.checked_sub(weights + step)? / KvCache::page_bytes(config, activation_bytes) as u128;
    usize::try_from(pages).ok()?.checked_sub(1).filter(|pages| *pages > 0)
}

/// The most that one step of the engine holds: a forward of the prompts' and observations' share and of a token of each of at most
/// `sequences`, with their logits and those of drafted tokens, after the vision tower's over the images among them; and the graphs of
/// decoding steps.
fn step(
    config: &Config,
    limits: EngineLimits,
    speculation: Speculation,
    sequences: usize,
    max_pixels: u64,
    activation_bytes: usize,
) -> u128 {
    let sequences = sequences.min(limits.sequences);
    let decoding = padded_sequences(sequences) as u128;
    let tokens = (limits.prefill_chunk_tokens + sequences) as u128;
    let block = Block::of(config.dim, config.heads, config.hidden, true);
    let (patches, tower) = tower(config, limits.prefill_chunk_tokens as u128, max_pixels);
    let forward = tokens * block.forward();
    let graphs = GRAPHS_MAX as u128 * decoding;
    let drafted = match speculation {
        Speculation::Off => 0,
        _ => (sequences * DRAFT_TOKENS_MAX).min(limits.prefill_chunk_tokens),
    };
    let logits = (graphs + (sequences + drafted) as u128) * config.vocab as u128;
    (forward.max(patches * tower.forward()) + graphs * block.forward()) * activation_bytes as u128
        + logits * size_of::<f32>() as u128
}

/// Patches of the vision tower where so many tokens are images', and its block.
fn tower(config: &Config, tokens: u128, max_pixels: u64) -> (u128, Block) {
    let vision = &config.vision;
    let area = (vision.patch * vision.patch) as u128;
    let patches = (tokens * (vision.merge * vision.merge) as u128).min(u128::from(max_pixels) / area);
    (patches, Block::of(vision.dim, vision.head_layout(), vision.hidden, config.family == Family::Qwen25Vl))
}

/// Elements for each row of one transformer block.
struct Block {
    /// Width of the residual stream.
    dim: u128,
    /// That forward keeps: both residual sums, both norms' rows, qkv, attention's output and log-sum-exp, the MLP before and after its
    /// activation, the norms' statistics.
    saved: u128,
    /// That backward holds besides: gradients of the residual, of both norms' rows, of qkv, of attention's output, and of the MLP.
    backward: u128,
}

impl Block {
    fn of(dim: usize, heads: Heads, hidden: usize, is_gated: bool) -> Block {
        let [dim, hidden, qkv] = [dim, hidden, heads.qkv()].map(|size| size as u128);
        let (attended, lse) = ((heads.heads * heads.head_dim) as u128, heads.heads as u128);
        let up = if is_gated { 2 * hidden } else { hidden };
        Block {
            dim,
            saved: 4 * dim + qkv + attended + lse + up + hidden + 2,
            backward: 4 * dim + qkv + attended + up + hidden,
        }
    }

    /// What a forward that keeps nothing holds: one block's, and what goes into it.
    fn forward(&self) -> u128 {
        self.saved + 2 * self.dim
    }
}
