//! One sequence: its tokens and positions, how many of them are in pages, how it samples and when it stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kv_cache::{PagePool, PageTable};
use super::prefix::PageKey;
use super::request::{GenerateRequest, HistoryPart, Sampled, StopReason, Stops};
use super::sampling::SamplingState;
use super::sampling::adaptive_temperature::AdaptiveState;
use super::sampling::constraints::Constrained;
use super::sampling::stop::StopMatcher;
use super::speculation::drafter::Drafter;
use crate::model::config::Config;
use crate::ops::attention::PAGE_TOKENS;
use crate::prompt::positions::PositionError;
use crate::prompt::{Grid, PositionCursor, PreparedImage};

/// Open sequences by number.
pub type Sequences = BTreeMap<u64, Sequence>;

/// An open sequence.
#[derive(Debug)]
pub struct Sequence {
    /// Tokens: prompt, sampled, observed.
    pub ids: Vec<u32>,
    /// Their 3-D positions.
    pub positions: Vec<[u32; 3]>,
    /// How many of them have keys and values in pages.
    pub computed: usize,
    /// Pages that hold its keys and values, in order.
    pub page_table: PageTable,
    /// Images and the token at which each begins.
    pub images: Vec<PlacedImage>,
    /// Its part in computing the prompt that it has in common with its group.
    pub prompt_role: PromptRole,
    /// The group that it was opened in.
    pub group: u64,
    /// How many sequences were opened before it.
    pub opened: u64,
    /// How many of the likeliest tokens are returned with each sampled one.
    pub top_logprobs: usize,
    /// Whether their log-probabilities are those of the distribution sampled from.
    pub top_logprobs_processed: bool,
    pub(super) sampler: SamplingState,
    pub(super) drafter: Drafter,
    cursor: PositionCursor,
    matcher: StopMatcher,
    stops: Stops,
    prompt_tokens: usize,
    turn_tokens: usize,
    has_stopped: bool,
    is_paused: bool,
}

/// What an open sequence does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SequenceState {
    /// It computes and samples.
    Running,
    /// It computes the prompt for others of its group, or waits for it.
    SharingPrompt,
    /// It computes nothing until it is resumed.
    Paused,
    /// It has stopped, and may be appended to.
    Stopped,
    /// It has stopped and is paused: after an append it still waits to be resumed.
    StoppedAside,
}

/// Who computes a group's common prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PromptRole {
    /// It shares no prompt computation now.
    Alone,
    /// This sequence does, and others wait for it.
    Leads,
    /// Another sequence computes it, and this one waits.
    Waits,
}

/// An image in a sequence.
#[derive(Clone, Debug)]
pub struct PlacedImage {
    /// The image, cut into patches.
    pub image: Arc<PreparedImage>,
    /// Its first placeholder.
    pub start: usize,
    /// How many placeholders it has.
    pub tokens: usize,
}

impl Sequence {
    /// A running sequence with nothing computed; `counter` is its counter of the random numbers. `bytes_of` gives the bytes of a token, for the
    /// request's history.
    pub fn open<'a>(
        request: &GenerateRequest,
        counter: u64,
        config: &Config,
        (group, opened): (u64, u64),
        bytes_of: &dyn Fn(u32) -> &'a [u8],
    ) -> Result<Sequence, PositionError> {
        let adaptive = request.adaptive.clone().map(AdaptiveState::new);
        let constrained = (!request.constraints.is_empty())
            .then(|| Constrained::new(&request.constraints, &request.stops.token_ids, config.vocab));
        let mut sequence = Sequence {
            ids: Vec::new(),
            positions: Vec::new(),
            computed: 0,
            page_table: PageTable::default(),
            images: Vec::new(),
            prompt_role: PromptRole::Alone,
            group,
            opened,
            top_logprobs: request.top_logprobs,
            top_logprobs_processed: request.top_logprobs_processed,
            sampler: SamplingState::new(&request.sampling, adaptive, constrained, request.seed, counter, config.vocab),
            drafter: Drafter::default(),
            cursor: PositionCursor::new(config.merge(), config.image_pad),
            matcher: StopMatcher::default(),
            stops: request.stops.clone(),
            prompt_tokens: request.token_ids.len(),
            turn_tokens: 0,
            has_stopped: false,
            is_paused: false,
        };
        sequence.extend(&request.token_ids, &request.images, config)?;
        for part in &request.history {
            match part {
                HistoryPart::Observed { token_ids, images } => sequence.append(token_ids, images, config)?,
                HistoryPart::Sampled(tokens) => {
                    for &token in tokens {
                        assert!(!sequence.has_stopped, "a history goes on behind a stop without an observation");
                        sequence.accept(token, bytes_of(token.id), config);
                    }
                }
            }
        }
        assert!(!sequence.has_stopped, "a history ends with a stop");
        Ok(sequence)
    }

    /// Adds tokens that the model did not sample, and lets the sequence run.
    pub fn append(&mut self, ids: &[u32], images: &[Arc<PreparedImage>], config: &Config) -> Result<(), PositionError> {
        self.extend(ids, images, config)?;
        self.sampler.interrupt();
        self.matcher.clear();
        self.drafter.drop_draft();
        self.turn_tokens = 0;
        self.has_stopped = false;
        Ok(())
    }

    fn extend(&mut self, ids: &[u32], images: &[Arc<PreparedImage>], config: &Config) -> Result<(), PositionError> {
        let grids: Vec<Grid> = images.iter().map(|image| image.grid).collect();
        let mut cursor = self.cursor.clone();
        cursor.add_images(&grids);
        let positions = cursor.extend(ids)?;
        cursor.finish()?;
        self.cursor = cursor;
        self.positions.extend(positions);
        let mut pads = (0..ids.len()).filter(|&i| ids[i] == config.image_pad);
        for image in images {
            let tokens = image.grid.tokens(config.merge());
            if let Some(first) = pads.next() {
                self.images.push(PlacedImage { image: image.clone(), start: self.ids.len() + first, tokens });
            }
            pads.by_ref().take(tokens - 1).for_each(drop);
        }
        self.ids.extend_from_slice(ids);
        self.sampler.see(ids);
        Ok(())
    }

    /// Takes a sampled token; the reason to stop, if it is one.
    pub fn accept(&mut self, token: Sampled, bytes: &[u8], config: &Config) -> Option<StopReason> {
        self.ids.push(token.id);
        self.sampler.see(&[token.id]);
        self.sampler.read_own(token.id, bytes);
        self.turn_tokens += 1;
        self.positions.extend(self.cursor.extend(&[token.id]).expect("sampled tokens are text"));
        let stopped_by = self.matcher.read(bytes, &self.stops.strings).filter(|_| self.sampler.may_end());
        let reason = if let Some(index) = stopped_by {
            Some(StopReason::Text(index))
        } else if self.stops.token_ids.contains(&token.id) {
            Some(StopReason::Token(token.id))
        } else if self.turn_tokens >= self.stops.turn_tokens {
            Some(StopReason::TurnTokens)
        } else if self.completion_tokens() >= self.stops.total_tokens {
            Some(StopReason::TotalTokens)
        } else if self.ids.len() >= config.context_tokens {
            Some(StopReason::ContextFull)
        } else {
            None
        };
        self.has_stopped = reason.is_some();
        reason
    }

    /// Stops for want of a token that the constraints allow.
    pub fn stop_without_token(&mut self) -> StopReason {
        self.has_stopped = true;
        StopReason::NothingAllowed
    }

    /// Drafts what is sampled next: no special and no stop tokens, and few enough that one more can be sampled after them. Nothing
    /// under a grammar, where each sample needs a mask of its own.
    pub fn propose_draft(&mut self, tokens_max: usize, config: &Config, is_special: impl Fn(u32) -> bool) {
        let turn = self.stops.turn_tokens.saturating_sub(self.turn_tokens);
        let total = self.stops.total_tokens.saturating_sub(self.completion_tokens());
        let context = config.context_tokens.saturating_sub(self.ids.len());
        let room = if self.sampler.has_grammar() { 0 } else { turn.min(total).min(context).saturating_sub(1) };
        let may_draft = |id| !is_special(id) && !self.stops.token_ids.contains(&id);
        self.drafter.propose(&self.ids, tokens_max.min(room), config.image_pad, may_draft);
    }

    /// The positions of drafted tokens.
    pub fn positions_ahead(&self, draft: &[u32]) -> Vec<[u32; 3]> {
        self.cursor.clone().extend(draft).expect("drafted tokens are text")
    }

    /// The position of the next token that is sampled.
    pub fn next_position(&self) -> [u32; 3] {
        [self.cursor.next_position(); 3]
    }

    /// Its first `computed` tokens have keys and values, and full pages can be found by others.
    pub fn settle(&mut self, computed: usize, pool: &mut PagePool) {
        self.computed = computed;
        self.insert_full_pages(pool);
    }

    /// Frees pages after those that hold computed tokens.
    pub fn free_spare_pages(&mut self, pool: &mut PagePool) {
        pool.cut(&mut self.page_table, self.computed.div_ceil(PAGE_TOKENS));
    }

    /// Tokens that the next forward could compute.
    pub fn to_compute(&self) -> usize {
        let end = match self.prompt_role {
            PromptRole::Leads => self.prompt_tokens - 1,
            PromptRole::Alone | PromptRole::Waits => self.ids.len(),
        };
        end - self.computed.min(end)
    }

    /// Whether it takes up pages.
    pub fn has_pages(&self) -> bool {
        !self.page_table.pages().is_empty()
    }

    /// Takes the pages of its longest cached prefix, all but the last token at most: the next is sampled from there.
    pub fn match_prefix(&mut self, pool: &mut PagePool) {
        let mut page_table = std::mem::take(&mut self.page_table);
        let pages = (self.ids.len() - 1) / PAGE_TOKENS;
        self.computed = pool.match_prefix(&mut page_table, (0..pages).map(|page| self.block(page))) * PAGE_TOKENS;
        self.page_table = page_table;
    }

    /// Inserts the pages that are full into the prefix cache.
    fn insert_full_pages(&mut self, pool: &mut PagePool) {
        let mut page_table = std::mem::take(&mut self.page_table);
        while (page_table.cached() + 1) * PAGE_TOKENS <= self.computed {
            let block = self.block(page_table.cached());
            pool.insert(&mut page_table, block);
        }
        self.page_table = page_table;
    }

    /// Gives all pages up; it begins anew when it gets others.
    pub fn release(&mut self, pool: &mut PagePool) {
        pool.release(&mut self.page_table);
        self.computed = 0;
    }

    /// What fills a page.
    fn block(&self, page: usize) -> PageKey {
        let first = page * PAGE_TOKENS;
        let mut block: PageKey = std::array::from_fn(|i| u128::from(self.ids[first + i]));
        for placed in &self.images {
            let from = placed.start.max(first);
            let to = (placed.start + placed.tokens).min(first + PAGE_TOKENS);
            for token in from..to {
                // A digest never is as small as a token id, but by a chance that can be forgotten.
                block[token - first] = placed.image.digest.wrapping_add((token - placed.start) as u128);
            }
        }
        block
    }

    /// Tokens after the prompt.
    pub fn completion_tokens(&self) -> usize {
        self.ids.len() - self.prompt_tokens
    }

    /// Tokens after the prompt that it may have.
    pub fn completion_tokens_max(&self) -> usize {
        self.stops.total_tokens
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Whether it takes part in the next step.
    pub fn is_running(&self) -> bool {
        !self.has_stopped && !self.is_paused && self.prompt_role != PromptRole::Waits
    }

    /// What it does.
    pub fn state(&self) -> SequenceState {
        match (self.is_paused, self.has_stopped, self.prompt_role) {
            (true, true, _) => SequenceState::StoppedAside,
            (true, false, _) => SequenceState::Paused,
            (false, true, _) => SequenceState::Stopped,
            (false, false, PromptRole::Alone) => SequenceState::Running,
            (false, false, PromptRole::Leads | PromptRole::Waits) => SequenceState::SharingPrompt,
        }
    }

    /// Pauses or resumes it.
    pub fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether it wants nothing computed now, and so gives its pages to whoever does.
    pub fn is_idle(&self) -> bool {
        self.is_stopped() || self.is_paused
    }

    /// Whether it has stopped.
    pub fn is_stopped(&self) -> bool {
        self.has_stopped
    }
}
