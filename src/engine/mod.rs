//! Decodes many sequences together over paged keys and values. The engine owns no weights: each step borrows them, and pages never
//! outlive the weights that filled them.
#![doc = include_str!("README.md")]

pub mod request;
pub mod sequence;
pub mod sizing;

// What a step is made of, in order.
pub mod groups;
pub mod scheduler;
pub mod ahead;
mod compute;
pub mod forward;
pub mod decode_graphs;
pub mod sample;

pub mod images;
pub mod kv_cache;
pub mod prefix;
pub mod sampling;
pub mod speculation;
pub mod statistics;

use std::sync::Arc;
use std::time::Instant;

use tracing::debug_span;

use ahead::Ahead;
use decode_graphs::DecodeGraphs;
use groups::Groups;
use images::EncodedImages;
use kv_cache::KvCache;
use request::{GenerateRequest, GeneratorError, TokenEvent};
use sample::own_bytes;
use scheduler::{Chunk, Schedule, schedule};
use sequence::{Sequence, SequenceState, Sequences};
pub use sizing::EngineLimits;
use speculation::{DRAFT_TOKENS_MAX, Speculation, Speculator};
pub use statistics::Statistics;

use crate::model::Model;
use crate::model::parameters::{Weights, WeightsId};
use crate::ops::Tensor;
use crate::ops::attention::PAGE_TOKENS;
use crate::prompt::{PreparedImage, Processor};

/// Open sequences and their pages.
pub struct Engine {
    model: Model,
    processor: Arc<Processor>,
    limits: EngineLimits,
    cache: KvCache,
    decode_graphs: DecodeGraphs,
    sequences: Sequences,
    groups: Groups,
    ahead: Ahead,
    /// Whether the next forward is launched before the last one's tokens are read, where it can be.
    overlaps: bool,
    /// Sequences opened so far.
    opened: u64,
    /// Open sequences that are paused.
    paused: usize,
    statistics: Statistics,
    images: EncodedImages,
    speculator: Speculator,
    /// The weights that filled the pages.
    weights: WeightsId,
}

impl Engine {
    /// An engine with all its pages free.
    pub fn new(model: Model, processor: Arc<Processor>, limits: EngineLimits) -> Engine {
        Engine {
            cache: KvCache::new(limits.pages),
            decode_graphs: DecodeGraphs::default(),
            model,
            processor,
            limits,
            sequences: Sequences::new(),
            groups: Groups::default(),
            ahead: Ahead::default(),
            overlaps: true,
            opened: 0,
            paused: 0,
            statistics: Statistics::default(),
            images: EncodedImages::default(),
            speculator: Speculator::default(),
            weights: WeightsId::default(),
        }
    }

    /// The engine with drafts made as `speculation` says. What it samples does not depend on it, to the bit.
    pub fn with_speculation(self, speculation: Speculation) -> Engine {
        Engine { speculator: Speculator::new(speculation), ..self }
    }

    /// The engine that reads a step's tokens before it launches the next, to measure what it gains otherwise. What it samples does not depend
    /// on it, to the bit.
    pub fn without_overlap(mut self) -> Engine {
        self.overlaps = false;
        self
    }

    /// The engine without captured graphs, to measure what they gain. What it samples does not depend on them, to the bit.
    pub fn without_graphs(self) -> Engine {
        Engine { decode_graphs: DecodeGraphs::none(), ..self }
    }

    /// The vision tower's output, before the merger, for an image that was encoded with the present weights: `[image tokens, merge² · width]`.
    pub fn unmerged_features(&self, image: &Arc<PreparedImage>) -> Option<Arc<Tensor>> {
        self.images.unmerged_features(image)
    }

    /// Forgets the encoded images; to be called when nobody needs [`Engine::unmerged_features`] any more. Open sequences encode theirs again.
    pub fn forget_images(&mut self) {
        self.images.clear();
    }

    /// Empties the prefix cache, except for pages that an open sequence holds.
    pub fn forget_prefixes(&mut self) {
        self.cache.pool().forget_idle();
    }

    /// Gives the memory of pages and graphs back until the next step; to be called when no sequence is left, so that an update has it.
    pub fn release_pages(&mut self) {
        self.ahead = Ahead::default();
        self.decode_graphs.forget();
        self.cache.release();
        self.model.backend.trim();
    }

    /// The tensors that hold keys and values, one a layer; none before the first step.
    pub fn page_tensors(&self) -> &[Tensor] {
        self.cache.layers()
    }

    /// Pages that no sequence holds, and pages in all.
    pub fn pages(&mut self) -> (usize, usize) {
        let pool = self.cache.pool();
        (pool.available(), pool.capacity())
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        let [encoded_images, cached_images] = self.images.counts();
        Statistics { encoded_images, cached_images, ..self.statistics }
    }

    /// Opens a group of sequences on one prompt, which is computed once. They begin when there are pages for them.
    ///
    /// # Errors
    /// [`GeneratorError::Full`] if more sequences would be unpaused than may be, [`GeneratorError::EmptyPrompt`] if there is nothing to go on from,
    /// [`GeneratorError::TooLong`] if the prompt leaves no room for a token in the model's context, [`GeneratorError::NeverFits`] if the pages do not
    /// suffice even for one of them alone.
    pub fn open(&mut self, request: &GenerateRequest) -> Result<(), GeneratorError> {
        let (prompt, total) = (request.token_ids.len(), request.stops.total_tokens);
        let context = self.model.config.context_tokens;
        if prompt == 0 {
            return Err(GeneratorError::EmptyPrompt);
        }
        let needed = request.tokens() + 1;
        if needed > context {
            return Err(GeneratorError::TooLong { needed, limit: context });
        }
        let longest = prompt.saturating_add(total).min(context);
        let (needed, pages) = (longest.div_ceil(PAGE_TOKENS), self.limits.pages);
        if needed > pages {
            return Err(GeneratorError::NeverFits { prompt, tokens: longest - prompt, needed, pages });
        }
        let open = self.sequences.len() - self.paused;
        if open > 0 && open + request.sequences.len() > self.limits.sequences {
            return Err(GeneratorError::Full);
        }
        let group = self.groups.next();
        let mut members = request.sequences.clone();
        members.sort_unstable();
        for (place, &member) in members.iter().enumerate() {
            let counter = request.first_counter.map_or(member, |first| first + place as u64);
            let bytes_of = |id| own_bytes(&self.processor, id);
            let sequence = Sequence::open(request, counter, &self.model.config, (group, self.opened), &bytes_of)
                .map_err(|e| GeneratorError::Failed(Box::new(e)))?;
            let replaced = self.sequences.insert(member, sequence);
            assert!(replaced.is_none(), "sequence {member} was opened twice");
            self.opened += 1;
        }
        self.groups.open(members);
        Ok(())
    }

    /// Adds tokens that the model did not sample to a stopped sequence, and lets it run again.
    ///
    /// # Errors
    /// [`GeneratorError::TooLong`] if they leave no room for another token.
    pub fn append(&mut self, number: u64, ids: &[u32], images: &[Arc<PreparedImage>]) -> Result<(), GeneratorError> {
        let sequence = self.sequences.get_mut(&number).ok_or(GeneratorError::Unknown(number))?;
        assert!(sequence.is_stopped(), "sequence {number} was appended to while it runs");
        let limit = (sequence.prompt_tokens() + sequence.completion_tokens_max()).min(self.model.config.context_tokens);
        let needed = sequence.ids.len() + ids.len() + 1;
        if needed > limit {
            return Err(GeneratorError::TooLong { needed, limit });
        }
        self.groups.unsettle(sequence.group);
        sequence.append(ids, images, &self.model.config).map_err(|e| GeneratorError::Failed(Box::new(e)))
    }

    /// Pauses a sequence, so that another can be opened in its place. It keeps its pages until another sequence needs them. Pausing changes
    /// none of its tokens.
    pub fn pause(&mut self, number: u64) {
        self.set_paused(number, true);
    }

    /// Resumes a paused sequence.
    pub fn resume(&mut self, number: u64) {
        self.set_paused(number, false);
    }

    fn set_paused(&mut self, number: u64, is_paused: bool) {
        let Some(sequence) = self.sequences.get_mut(&number).filter(|sequence| sequence.is_paused() != is_paused)
        else {
            return;
        };
        sequence.set_paused(is_paused);
        self.paused = if is_paused { self.paused + 1 } else { self.paused - 1 };
        self.groups.unsettle(sequence.group);
        self.ahead.leave_out(number);
        sequence.free_spare_pages(self.cache.pool());
    }

    /// How many more sequences can be opened or resumed.
    pub fn free_slots(&self) -> usize {
        (self.limits.sequences + self.paused).saturating_sub(self.sequences.len())
    }

    /// Open sequences that are paused.
    pub fn paused(&self) -> usize {
        self.paused
    }

    /// Unpaused sequences at most ([`EngineLimits::sequences`]).
    pub fn slots(&self) -> usize {
        self.limits.sequences
    }

    /// What an open sequence does.
    pub fn state(&self, number: u64) -> Option<SequenceState> {
        self.sequences.get(&number).map(Sequence::state)
    }

    /// Forgets a sequence and frees what it alone held.
    pub fn close(&mut self, number: u64) {
        let Some(mut sequence) = self.sequences.remove(&number) else { return };
        self.paused -= usize::from(sequence.is_paused());
        self.ahead.leave_out(number);
        self.groups.close(number, &sequence, &mut self.sequences, self.cache.pool());
        self.cache.pool().release(&mut sequence.page_table);
    }

    /// Advances the running sequences that the prefill budget and the pages allow: schedule, draft, forward, sample, accept.
    ///
    /// # Errors
    /// [`GeneratorError::Failed`]; no backend here reports one, and a `Generator` over a network would.
    pub fn step(&mut self, weights: &Weights) -> Result<Vec<TokenEvent>, GeneratorError> {
        let pass = self.plan(weights.id());
        if pass.chunks.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: usize = pass.chunks.iter().map(Chunk::computed).sum();
        let _span = debug_span!("step", sequences = pass.chunks.len(), tokens).entered();
        let [encoded, _] = self.images.counts();
        let began = self.ahead.launched.as_ref().map_or_else(Instant::now, |launched| launched.began);
        let sampled = self.compute(weights, &pass.chunks);
        // Times only steps in which at least half the rows are sampled from, and no image is encoded.
        if tokens <= 2 * sampled.len() && self.images.counts()[0] == encoded {
            self.speculator.time(tokens, began.elapsed());
        }
        Ok(self.accept(&pass.chunks, sampled))
    }

    /// The first part of a step: what is computed with these weights; its pages are there.
    pub fn plan(&mut self, weights: WeightsId) -> Schedule {
        let _scheduling = debug_span!("schedule").entered();
        self.forget_other_weights(weights);
        self.groups.share_prompts(&mut self.sequences, self.cache.pool());
        let decided = std::mem::take(&mut self.ahead.chunks);
        // If all of a launched forward's sequences have stopped, nobody wants it.
        self.ahead.launched.take_if(|_| decided.is_empty());
        let mut pass = match self.ahead.launched {
            Some(_) => Schedule { chunks: decided, ..Schedule::default() },
            None => schedule(&mut self.sequences, &mut self.cache, decided, self.limits.prefill_chunk_tokens),
        };
        if pass.preempted > 0 {
            self.groups.unsettle_all();
        }
        self.add_drafts(&mut pass);
        self.statistics.preemptions += pass.preempted as u64;
        self.statistics.queried_tokens += pass.queried_tokens as u64;
        self.statistics.cached_tokens += pass.cached_tokens as u64;
        pass
    }

    /// Adds drafts to decoding sequences where they repay. They use only pages and prefill budget that are left over, so no sequence waits.
    fn add_drafts(&mut self, pass: &mut Schedule) {
        if !self.speculator.is_on() {
            return;
        }
        let decoding = pass.chunks.iter().filter(|chunk| chunk.is_decoding()).count();
        let rows = pass.chunks.iter().map(Chunk::computed).sum();
        let rows_max = self.speculator.rows_max(rows);
        let mut spare = pass.spare_tokens.min(rows_max);
        self.ahead.wants_draft = false;
        let tokenizer = self.processor.tokenizer();
        for chunk in pass.chunks.iter_mut().filter(|chunk| chunk.is_decoding()) {
            let sequence = self.sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
            sequence.propose_draft(DRAFT_TOKENS_MAX, &self.model.config, |id| tokenizer.is_special(id));
            let repaying = self.speculator.draft_len(&sequence.drafter, decoding);
            self.ahead.wants_draft |= repaying.min(rows_max) > 0;
            let wanted = repaying.min(spare);
            let tokens = self.cache.make_spare_writable(&mut sequence.page_table, chunk.tokens.end, wanted);
            chunk.draft = sequence.drafter.draft().tokens()[..tokens].to_vec();
            spare -= tokens;
            self.statistics.drafts += u64::from(tokens > 0);
            self.statistics.drafted_tokens += tokens as u64;
        }
    }

    /// Keys, values and images of other weights are void: sequences compute theirs again.
    fn forget_other_weights(&mut self, weights: WeightsId) {
        if weights == self.weights {
            return;
        }
        self.weights = weights;
        self.images.clear();
        self.ahead = Ahead::default();
        for sequence in self.sequences.values_mut() {
            sequence.release(self.cache.pool());
        }
        self.groups.unsettle_all();
        self.cache.pool().forget();
    }

    /// The third part: notes what is computed, and gives each sequence the tokens sampled for it: the first, and the one after each accepted
    /// drafted token. What was sampled behind a rejected one is dropped. Simulations use the first part and this one.
    pub fn accept(&mut self, chunks: &[Chunk], sampled: Vec<TokenEvent>) -> Vec<TokenEvent> {
        let mut events = Vec::with_capacity(sampled.len());
        let mut sampled = sampled.into_iter();
        for chunk in chunks {
            let sequence = self.sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
            self.statistics.computed_tokens += chunk.computed() as u64;
            let mut draft = chunk.draft.iter();
            let mut computed = chunk.tokens.end;
            // Consume all events of the chunk, even if the loop stops early.
            for mut event in sampled.by_ref().take(chunk.sampled()).collect::<Vec<_>>() {
                let sampled = event.token.map(|token| token.id);
                event.stopped = match event.token {
                    Some(token) => sequence.accept(token, own_bytes(&self.processor, token.id), &self.model.config),
                    None => Some(sequence.stop_without_token()),
                };
                if let Some(outcome) = sampled.and_then(|id| sequence.drafter.verify(id)) {
                    self.speculator.count(outcome);
                }
                let has_stopped = event.stopped.is_some();
                events.push(event);
                if has_stopped || draft.next().copied() != sampled {
                    break;
                }
                computed += 1;
            }
            self.statistics.accepted_tokens += (computed - chunk.tokens.end) as u64;
            sequence.settle(computed, self.cache.pool());
            if sequence.is_stopped() || !chunk.draft.is_empty() {
                sequence.free_spare_pages(self.cache.pool());
            }
        }
        if events.iter().any(|event| event.stopped.is_some()) {
            self.ahead.chunks.retain(|chunk| !self.sequences[&chunk.sequence].is_stopped());
        }
        events
    }
}
