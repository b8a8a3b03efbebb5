//! Sizes of an engine. [`EngineLimits`] are made here alone: of how many sequences run together, how long they get, and how much memory
//! their keys and values may take. What an engine of these sizes holds is counted here too, before there is one.

use super::decode_graphs::{GRAPHS_MAX, padded_sequences};
use super::kv_cache::KvCache;
use super::speculation::{DRAFT_TOKENS_MAX, Speculation};
use crate::model::config::Config;
use crate::model::footprint::{BlockFootprint, packed_bytes, tower_patches, weights_bytes};
use crate::model::parameters::Layout;
use crate::ops::attention::PAGE_TOKENS;
use crate::ops::footprint::Footprint;
use crate::ops::usable_bytes;

/// Prompt and observation tokens of one forward, where nobody asks for another number.
const PREFILL_CHUNK_TOKENS: usize = 2048;
/// Tokens that a prompt is counted with where its length is not known.
const PROMPT_TOKENS: usize = 1024;
/// Bytes for each logit of a row that is sampled from: in f32, once more after penalty, bias and mask, and what the sampler notes of them.
const SAMPLED_BYTES: u128 = 9;

/// Sizes of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineLimits {
    /// Pages of keys and values, of [`PAGE_TOKENS`] tokens each.
    pub pages: usize,
    /// Prompt and observation tokens of one forward.
    pub prefill_chunk_tokens: usize,
    /// Unpaused sequences at most, as vLLM's `max_num_seqs`; a larger group may open while none is unpaused.
    pub sequences: usize,
}

/// Pages that sequences fill at their longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageDemand {
    /// Of all that run together.
    pub all: usize,
    /// Of those without which nothing runs: one sequence, or one group.
    pub least: usize,
}

impl PageDemand {
    /// `sequences` that share nothing, of `tokens` each with their prompts.
    pub fn of_sequences(sequences: usize, tokens: usize) -> PageDemand {
        let least = tokens.div_ceil(PAGE_TOKENS);
        PageDemand { all: least * sequences, least }
    }

    /// A group of `members` on each prompt, at most `sequences` sequences together. Prompts have at most so many tokens as `prompts` says, a
    /// completion `completion_tokens`, both together `context_tokens`. The longest prompts may come together.
    pub fn of_prompts(
        prompts: &[usize],
        members: usize,
        sequences: usize,
        completion_tokens: usize,
        context_tokens: usize,
    ) -> PageDemand {
        let pages = |prompt: &usize| {
            let longest = prompt.saturating_add(completion_tokens).min(context_tokens).div_ceil(PAGE_TOKENS);
            // A shorter prompt may end elsewhere in its page, and its answer then touch one page more.
            let own = (completion_tokens.div_ceil(PAGE_TOKENS) + 1).min(longest);
            longest + own * (members - 1)
        };
        let mut groups: Vec<usize> = prompts.iter().map(pages).collect();
        groups.sort_unstable_by(|a, b| b.cmp(a));
        groups.truncate(sequences.div_ceil(members));
        PageDemand { all: groups.iter().sum(), least: groups.first().copied().unwrap_or(0) }
    }

    /// A group of `members` on each of `prompts` prompts of unknown lengths, at most `sequences` sequences together.
    pub fn of_groups(prompts: usize, members: usize, sequences: usize, completion_tokens: usize) -> PageDemand {
        let on_one_prompt =
            |sequences: usize| sequences * (completion_tokens.div_ceil(PAGE_TOKENS) + 1) + PROMPT_TOKENS / PAGE_TOKENS;
        let other_prompts = (prompts - 1) * PROMPT_TOKENS / PAGE_TOKENS;
        let all = on_one_prompt((prompts * members).min(sequences)) + other_prompts;
        PageDemand { all, least: on_one_prompt(members) }
    }
}

/// What an engine is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineSize {
    /// Sequences that run together at most.
    pub sequences: usize,
    /// Prompt and observation tokens of one forward.
    pub prefill_chunk_tokens: usize,
    /// Pages that these sequences ask for.
    pub demand: PageDemand,
}

impl EngineSize {
    /// For `sequences` sequences together, with chunks of prompts as long as usual.
    pub fn new(sequences: usize, demand: PageDemand) -> EngineSize {
        EngineSize { sequences, prefill_chunk_tokens: PREFILL_CHUNK_TOKENS, demand }
    }

    /// With all the pages that are asked for.
    pub fn limits(self) -> EngineLimits {
        self.with_pages(self.demand.all)
    }

    /// With the pages that are asked for as far as `bytes` hold them, but always with the least.
    pub fn limits_within(self, bytes: usize, page_bytes: usize) -> EngineLimits {
        self.with_pages(self.demand.all.min(bytes / page_bytes).max(self.demand.least))
    }

    /// With the pages that `bytes` hold, whatever is asked for.
    pub fn limits_of(self, bytes: usize, page_bytes: usize) -> EngineLimits {
        self.with_pages(bytes / page_bytes)
    }

    fn with_pages(self, pages: usize) -> EngineLimits {
        EngineLimits { pages, prefill_chunk_tokens: self.prefill_chunk_tokens, sequences: self.sequences }
    }
}

/// What an engine on a model holds in memory.
#[derive(Clone, Copy, Debug)]
pub struct EngineFootprint<'a> {
    /// The model.
    pub config: &'a Config,
    /// The largest area of an image as the model sees it.
    pub max_pixels: u64,
    /// Whether drafts are made.
    pub speculation: Speculation,
    /// What tensors take.
    pub footprint: Footprint,
}

impl EngineFootprint<'_> {
    /// Bytes of one page in all layers.
    pub fn page_bytes(&self) -> usize {
        KvCache::page_bytes(self.config, self.footprint.activation_bytes)
    }

    /// Bytes of all pages, with the one that only fills batches up.
    pub fn pages_bytes(&self, limits: EngineLimits) -> u128 {
        (limits.pages as u128 + 1) * self.page_bytes() as u128
    }

    /// The most that one step holds: a forward of the prompts' and observations' share and of a token of each of at most `sequences`, with
    /// their logits, those of drafted tokens and the parts of their attention, after the vision tower's over the images among them; and the graphs of decoding steps.
    pub fn step_bytes(&self, limits: EngineLimits, sequences: usize) -> u128 {
        let (config, layout) = (self.config, Layout::new(self.config));
        let sequences = sequences.min(limits.sequences);
        let tokens = (limits.prefill_chunk_tokens + sequences) as u128;
        let layer = BlockFootprint::decoder(config, &layout).forward();
        let patches = tower_patches(config, limits.prefill_chunk_tokens, self.max_pixels);
        let tower = patches * BlockFootprint::vision(config, &layout).forward();
        let graphs = (GRAPHS_MAX * padded_sequences(sequences)) as u128;
        let drafted = match self.speculation {
            Speculation::Off => 0,
            _ => (sequences * DRAFT_TOKENS_MAX).min(limits.prefill_chunk_tokens),
        };
        let activations = (tokens * layer).max(tower) + graphs * layer;
        let logits = graphs * size_of::<f32>() as u128 + (sequences + drafted) as u128 * SAMPLED_BYTES;
        // One sequence may come to have all pages, and tables have powers of two of them.
        let keys = limits.pages.next_power_of_two() * PAGE_TOKENS;
        let parts = |sequences, tokens| self.footprint.parts_bytes(config.heads, sequences, tokens, keys);
        let parts = parts(sequences, None) + GRAPHS_MAX as u128 * parts(padded_sequences(sequences), Some(1));
        activations * self.footprint.activation_bytes as u128 + logits * config.vocab as u128 + parts
    }

    /// The limits of an engine that serves beside the weights in an arena of `arena` bytes; `None` where the pages that are left do not hold
    /// the least.
    pub fn limits_beside_weights(&self, size: EngineSize, arena: u64) -> Option<EngineLimits> {
        let (layout, limits) = (Layout::new(self.config), size.limits());
        let weights = weights_bytes(&layout) + packed_bytes(&layout, self.footprint);
        let step = self.step_bytes(limits, limits.sequences);
        let left = usable_bytes(arena)?.checked_sub(weights + step)?;
        let pages = usize::try_from(left / self.page_bytes() as u128).ok()?.checked_sub(1)?;
        let fits = pages >= size.demand.least.max(1);
        fits.then(|| size.with_pages(size.demand.all.min(pages)))
    }
}
