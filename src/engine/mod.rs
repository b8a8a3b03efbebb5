//! Decodes many sequences together over paged keys and values. The engine owns no weights: each step borrows them, and pages never
//! outlive the weights that filled them.
#![doc = include_str!("README.md")]

pub mod decode_graphs;
pub mod images;
pub mod kv_cache;
pub mod prefix;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod sequence;
pub mod speculation;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use tracing::debug_span;

use decode_graphs::DecodeGraphs;
use images::EncodedImages;
use kv_cache::KvCache;
use request::{GenerateRequest, GeneratorError, TokenEvent};
use sampling::Sampler;
use sampling::top_logprobs::{top_logprobs, top_logprobs_processed};
use scheduler::{Chunk, Schedule, schedule, schedule_ahead};
use sequence::{PromptRole, Sequence, SequenceState};
use speculation::{DRAFT_TOKENS_MAX, Speculation, Speculator};

use crate::model::Model;
use crate::model::batch::{Batch, BatchPages};
use crate::model::parameters::Weights;
use crate::ops::attention::PAGE_TOKENS;
use crate::ops::patch_embed::PixelScale;
use crate::ops::sample::SamplingParams;
use crate::ops::{Backend, Tensor};
use crate::prompt::{PreparedImage, Processor};

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

/// Sequences that were opened together.
#[derive(Debug)]
struct Group {
    /// Those still open, ascending.
    members: Vec<u64>,
    /// No member computes the prompt for others or waits for it. Cleared when a member is preempted, paused, resumed, appended to or closed,
    /// and when the weights change.
    is_settled: bool,
}

/// What an engine did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Times that a sequence gave its pages up to another.
    pub preemptions: u64,
    /// Tokens that went through the model, drafted ones among them.
    pub computed_tokens: u64,
    /// Drafts that were verified.
    pub drafts: u64,
    /// Tokens in these drafts.
    pub drafted_tokens: u64,
    /// Of these, tokens that were accepted. Each saved a step.
    pub accepted_tokens: u64,
    /// Tokens of the sequences that began, or began anew.
    pub queried_tokens: u64,
    /// Of these, tokens whose keys and values were in the prefix cache.
    pub cached_tokens: u64,
    /// Images that went through the vision tower.
    pub encoded_images: u64,
    /// Images that had been through it when they were shown again.
    pub cached_images: u64,
}

impl Statistics {
    /// What was done since an earlier reading.
    pub fn since(&self, earlier: &Statistics) -> Statistics {
        Statistics {
            preemptions: self.preemptions - earlier.preemptions,
            computed_tokens: self.computed_tokens - earlier.computed_tokens,
            drafts: self.drafts - earlier.drafts,
            drafted_tokens: self.drafted_tokens - earlier.drafted_tokens,
            accepted_tokens: self.accepted_tokens - earlier.accepted_tokens,
            queried_tokens: self.queried_tokens - earlier.queried_tokens,
            cached_tokens: self.cached_tokens - earlier.cached_tokens,
            encoded_images: self.encoded_images - earlier.encoded_images,
            cached_images: self.cached_images - earlier.cached_images,
        }
    }
}

/// Open sequences and their pages.
pub struct Engine {
    model: Model,
    processor: Arc<Processor>,
    limits: EngineLimits,
    cache: KvCache,
    decode_graphs: DecodeGraphs,
    sequences: BTreeMap<u64, Sequence>,
    groups: BTreeMap<u64, Group>,
    /// Chunks of the next step that were decided during the last one.
    ahead: Vec<Chunk>,
    /// Groups opened so far; numbers the next.
    groups_opened: u64,
    /// Sequences opened so far.
    opened: u64,
    /// Open sequences that are paused.
    paused: usize,
    statistics: Statistics,
    images: EncodedImages,
    speculator: Speculator,
    /// Version of the weights that filled the pages.
    version: u64,
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
            sequences: BTreeMap::new(),
            groups: BTreeMap::new(),
            ahead: Vec::new(),
            groups_opened: 0,
            opened: 0,
            paused: 0,
            statistics: Statistics::default(),
            images: EncodedImages::default(),
            speculator: Speculator::default(),
            version: 0,
        }
    }

    /// The engine with drafts made as `speculation` says. What it samples does not depend on it, to the bit.
    pub fn with_speculation(self, speculation: Speculation) -> Engine {
        Engine { speculator: Speculator::new(speculation), ..self }
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
    /// [`GeneratorError::TooLong`] if the prompt is longer than the model's context, [`GeneratorError::NeverFits`] if the pages do not
    /// suffice even for one of them alone.
    pub fn open(&mut self, request: &GenerateRequest) -> Result<(), GeneratorError> {
        let (prompt, total) = (request.token_ids.len(), request.stops.total_tokens);
        let context = self.model.config.context_tokens;
        if prompt == 0 {
            return Err(GeneratorError::EmptyPrompt);
        }
        if prompt + 1 > context {
            return Err(GeneratorError::TooLong { needed: prompt + 1, limit: context });
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
        let number = self.groups_opened;
        let mut members = request.sequences.clone();
        members.sort_unstable();
        for (place, &member) in members.iter().enumerate() {
            let counter = request.first_counter.map_or(member, |first| first + place as u64);
            let sequence = Sequence::open(request, counter, &self.model.config, (number, self.opened))
                .map_err(|e| GeneratorError::Failed(Box::new(e)))?;
            let replaced = self.sequences.insert(member, sequence);
            assert!(replaced.is_none(), "sequence {member} was opened twice");
            self.opened += 1;
        }
        if !members.is_empty() {
            self.groups.insert(number, Group { members, is_settled: false });
            self.groups_opened += 1;
        }
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
        self.groups.get_mut(&sequence.group).expect("a sequence's group is open").is_settled = false;
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
        self.groups.get_mut(&sequence.group).expect("a sequence's group is open").is_settled = false;
        self.ahead.retain(|chunk| chunk.sequence != number);
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
        self.ahead.retain(|chunk| chunk.sequence != number);
        let group = self.groups.get_mut(&sequence.group).expect("a sequence's group is open");
        group.members.retain(|&member| member != number);
        group.is_settled = false;
        if sequence.prompt_role == PromptRole::Leads {
            // What it has of the common prompt goes to one of those that wait for it.
            let waits = |member: &&u64| self.sequences[*member].prompt_role == PromptRole::Waits;
            if let Some(heir) = group.members.iter().find(waits).and_then(|heir| self.sequences.get_mut(heir)) {
                // Where it began anew it may have found more than the prompt, which is its own.
                heir.computed = sequence.computed.min(sequence.prompt_tokens() - 1);
                heir.page_table = self.cache.pool().share(&sequence.page_table, heir.computed.div_ceil(PAGE_TOKENS));
            }
        }
        self.cache.pool().release(&mut sequence.page_table);
        if group.members.is_empty() {
            self.groups.remove(&sequence.group);
        }
    }

    /// Advances the running sequences that the prefill budget and the pages allow: schedule, draft, forward, sample, accept.
    ///
    /// # Errors
    /// [`GeneratorError::Failed`]; no backend here reports one, and a `Generator` over a network would.
    pub fn step(&mut self, weights: &Weights) -> Result<Vec<TokenEvent>, GeneratorError> {
        let pass = self.plan(weights.version);
        if pass.chunks.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: usize = pass.chunks.iter().map(Chunk::computed).sum();
        let _span = debug_span!("step", sequences = pass.chunks.len(), tokens).entered();
        let (began, [encoded, _]) = (Instant::now(), self.images.counts());
        let sampled = self.compute(weights, &pass.chunks);
        // What a row costs shows where most are sampled from, and no picture is encoded beside them.
        if tokens <= 2 * sampled.len() && self.images.counts()[0] == encoded {
            self.speculator.time(tokens, began.elapsed());
        }
        Ok(self.accept(&pass.chunks, sampled))
    }

    /// The first part of a step: what is computed under weights of that version; its pages are there.
    pub fn plan(&mut self, version: u64) -> Schedule {
        let _scheduling = debug_span!("schedule").entered();
        self.forget_other_version(version);
        self.share_prompts();
        let decided = std::mem::take(&mut self.ahead);
        let mut pass = schedule(&mut self.sequences, &mut self.cache, decided, self.limits.prefill_chunk_tokens);
        if pass.preempted > 0 {
            self.groups.values_mut().for_each(|group| group.is_settled = false);
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
        let mut spare = pass.spare_tokens.min(self.speculator.rows_max(rows));
        let tokenizer = self.processor.tokenizer();
        for chunk in pass.chunks.iter_mut().filter(|chunk| chunk.is_decoding()) {
            let sequence = self.sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
            sequence.propose_draft(DRAFT_TOKENS_MAX, &self.model.config, |id| tokenizer.is_special(id));
            let wanted = self.speculator.draft_len(&sequence.drafter, decoding).min(spare);
            let tokens = self.cache.make_spare_writable(&mut sequence.page_table, chunk.tokens.end, wanted);
            chunk.draft = sequence.drafter.draft().tokens()[..tokens].to_vec();
            spare -= tokens;
            self.statistics.drafts += u64::from(tokens > 0);
            self.statistics.drafted_tokens += tokens as u64;
        }
    }

    /// Keys, values and images of other weights are void: sequences compute theirs again.
    fn forget_other_version(&mut self, version: u64) {
        if version == self.version {
            return;
        }
        self.version = version;
        self.images.clear();
        self.ahead.clear();
        for sequence in self.sequences.values_mut() {
            sequence.release(self.cache.pool());
        }
        self.groups.values_mut().for_each(|group| group.is_settled = false);
        self.cache.pool().forget();
    }

    /// In each group one sequence computes the common prompt but for its last token; there the others fork off. A preempted member that has
    /// already sampled uses the prefix cache instead.
    fn share_prompts(&mut self) {
        for group in self.groups.values_mut().filter(|group| !group.is_settled) {
            let is_settled = |member: &u64| {
                let sequence = &self.sequences[member];
                sequence.prompt_role == PromptRole::Alone && (sequence.computed > 0 || sequence.is_stopped())
            };
            group.is_settled = group.members.iter().all(is_settled);
            if group.is_settled {
                continue;
            }
            let is_candidate = |member: &&u64| {
                let sequence = &self.sequences[*member];
                // One that is paused leads nobody to what is not computed.
                let common = sequence.prompt_tokens() - 1;
                if sequence.is_paused() {
                    sequence.computed >= common
                } else {
                    sequence.computed > 0 || !sequence.is_stopped()
                }
            };
            let candidates = group.members.iter().filter(is_candidate);
            let Some(&leader) = candidates.max_by_key(|&&member| (self.sequences[&member].computed, Reverse(member)))
            else {
                continue;
            };
            let common = self.sequences[&leader].prompt_tokens() - 1;
            let is_ready = self.sequences[&leader].computed >= common;
            let mut leads = false;
            for &member in group.members.iter().filter(|&&member| member != leader) {
                let sequence = &self.sequences[&member];
                let lacks = common > 0 && sequence.computed == 0 && !sequence.is_stopped();
                let can_fork = is_ready && sequence.completion_tokens() == 0 && self.cache.pool().available() > 0;
                let forked = (lacks && can_fork).then(|| {
                    self.cache.pool().share(&self.sequences[&leader].page_table, common.div_ceil(PAGE_TOKENS))
                });
                let sequence = self.sequences.get_mut(&member).expect("members are open");
                sequence.prompt_role = if lacks && !is_ready { PromptRole::Waits } else { PromptRole::Alone };
                leads |= sequence.prompt_role == PromptRole::Waits;
                if let Some(page_table) = forked {
                    sequence.page_table = page_table;
                    sequence.computed = common;
                }
            }
            let leader = self.sequences.get_mut(&leader).expect("members are open");
            leader.prompt_role = if leads { PromptRole::Leads } else { PromptRole::Alone };
        }
    }

    /// The second part: computes the chunks, and samples the next token of those that are whole, and one after each drafted token, as events
    /// in the order of the chunks. The next step is scheduled before the logits are read: on an asynchronous backend the device may still
    /// compute them.
    pub fn compute(&mut self, weights: &Weights, chunks: &[Chunk]) -> Vec<TokenEvent> {
        let images = self.image_rows(weights, chunks);
        let batch = self.batch(chunks, images.as_ref().map(|(_, places)| places.as_slice()));
        let is_plain = images.is_none() && chunks.iter().all(|chunk| chunk.is_decoding() && chunk.draft.is_empty());
        let computed;
        let logits = if is_plain
            && let Some(logits) = self.decode_graphs.forward(&self.model, weights, &batch, &mut self.cache)
        {
            logits
        } else {
            let image_rows = images.as_ref().map(|(rows, _)| rows);
            let hidden = self.model.forward_paged(weights, &batch, image_rows, self.cache.layers_mut(&self.model));
            if !chunks.iter().any(|chunk| chunk.samples_next) {
                return Vec::new();
            }
            computed = self.model.logits(weights, &hidden);
            &computed
        };
        self.ahead = schedule_ahead(&mut self.sequences, &mut self.cache, chunks);
        sample(&self.model, logits, weights.version, &mut self.sequences, &self.processor, chunks)
    }

    /// Runs only `schedule_ahead`, for simulations that skip [`Engine::compute`] (`benches/simulation.rs`).
    pub fn look_ahead(&mut self, chunks: &[Chunk]) {
        self.ahead = schedule_ahead(&mut self.sequences, &mut self.cache, chunks);
    }

    /// The language model's rows for the images that the chunks touch, and where each image's rows begin: `(sequence, first
    /// placeholder, placeholders, first row)`.
    fn image_rows(&mut self, weights: &Weights, chunks: &[Chunk]) -> Option<(Tensor, Vec<ImagePlace>)> {
        let (mut images, mut places, mut row) = (Vec::new(), Vec::new(), 0);
        for chunk in chunks {
            for placed in &self.sequences[&chunk.sequence].images {
                if placed.start < chunk.tokens.end && placed.start + placed.tokens > chunk.tokens.start {
                    images.push(placed.image.clone());
                    places.push(ImagePlace {
                        sequence: chunk.sequence,
                        start: placed.start,
                        tokens: placed.tokens,
                        row,
                    });
                    row += placed.tokens;
                }
            }
        }
        if images.is_empty() {
            return None;
        }
        let settings = self.processor.image_settings();
        let scale = PixelScale { mean: settings.mean, std: settings.std };
        self.images.encode(&self.model, weights, &images, scale);
        let features: Vec<Arc<Tensor>> =
            images.iter().filter_map(|image| self.images.unmerged_features(image)).collect();
        let features: Vec<&Tensor> = features.iter().map(|features| &**features).collect();
        let features = self.model.backend.concat_rows(&features);
        Some((self.model.merger_forward(weights, &features).0, places))
    }

    fn batch(&self, chunks: &[Chunk], images: Option<&[ImagePlace]>) -> Batch {
        let mut batch = Batch { bounds: vec![0], rows: Some(Vec::new()), ..Batch::default() };
        let mut pages = BatchPages::default();
        for chunk in chunks {
            let sequence = &self.sequences[&chunk.sequence];
            let end = chunk.tokens.end + chunk.draft.len();
            batch.ids.extend(sequence.ids[chunk.tokens.clone()].iter().chain(&chunk.draft));
            batch.positions.extend(&sequence.positions[chunk.tokens.clone()]);
            batch.positions.extend(sequence.positions_ahead(&chunk.draft));
            batch.bounds.push(batch.ids.len());
            pages.slots.extend((chunk.tokens.start..end).map(|position| sequence.page_table.slot(position)));
            pages.page_tables.push(sequence.page_table.pages().to_vec());
            pages.lengths.push(end);
            if let Some(images) = images {
                let own = images.iter().filter(|place| place.sequence == chunk.sequence);
                batch.image_index.extend(image_index(chunk, own));
            }
            batch.rows.get_or_insert_default().extend(batch.ids.len() - chunk.sampled()..batch.ids.len());
        }
        batch.pages = Some(pages);
        batch
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
            self.ahead.retain(|chunk| !self.sequences[&chunk.sequence].is_stopped());
        }
        events
    }
}

/// Samples from the logits of the chunks that sample. Placeholders of pictures are never sampled. The host makes the grammars' masks while the
/// device computes the logits.
fn sample(
    model: &Model,
    logits: &Tensor,
    weights_version: u64,
    sequences: &mut BTreeMap<u64, Sequence>,
    processor: &Processor,
    chunks: &[Chunk],
) -> Vec<TokenEvent> {
    make_masks(sequences);
    let samplers = samplers(sequences, processor, chunks);
    let row_params: Vec<SamplingParams<'_>> =
        samplers.iter().map(|(sampler, position)| sampler.params(*position)).collect();
    let excluded = model.config.placeholders();
    let sampled = model.backend.sample(logits, &row_params, &excluded);
    let top_logprobs =
        top_logprobs_of(&*model.backend, logits, &top_logprobs_asked(sequences, chunks), &row_params, &excluded);
    let numbers = chunks.iter().flat_map(|chunk| std::iter::repeat_n(chunk.sequence, chunk.sampled()));
    let rows = numbers.zip(&samplers).zip(sampled).zip(top_logprobs);
    rows.map(|(((sequence, (sampler, _)), sampled), top_logprobs)| TokenEvent {
        sequence,
        token: sampler.token(&sampled),
        top_logprobs,
        weights_version,
        stopped: None,
    })
    .collect()
}

/// Makes the masks of sequences with grammars.
fn make_masks(sequences: &mut BTreeMap<u64, Sequence>) {
    let running = sequences.values_mut().filter(|sequence| sequence.is_running());
    let mut lacking: Vec<&mut Sampler> =
        running.map(|sequence| &mut sequence.sampler).filter(|sampler| sampler.lacks_mask()).collect();
    lacking.par_iter_mut().for_each(|sampler| sampler.make_mask());
}

/// What a token that the model sampled adds to its text.
fn own_bytes(processor: &Processor, id: u32) -> &[u8] {
    let tokenizer = processor.tokenizer();
    if tokenizer.is_special(id) { &[] } else { tokenizer.token_bytes(id) }
}

/// How each row's token is sampled, and its position in its sequence: the next token as the sequence is, the one after a drafted token as if
/// that had been sampled.
fn samplers<'a>(
    sequences: &'a BTreeMap<u64, Sequence>,
    processor: &Processor,
    chunks: &[Chunk],
) -> Vec<(Cow<'a, Sampler>, usize)> {
    let mut samplers = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.samples_next) {
        let sequence = &sequences[&chunk.sequence];
        let mut next = Cow::Borrowed(&sequence.sampler);
        for (position, &id) in (sequence.ids.len()..).zip(&chunk.draft) {
            let mut behind = Sampler::clone(&next);
            behind.see(&[id]);
            behind.read_own(id, own_bytes(processor, id));
            samplers.push((std::mem::replace(&mut next, Cow::Owned(behind)), position));
        }
        samplers.push((next, sequence.ids.len() + chunk.draft.len()));
    }
    samplers
}

/// For each row: how many of the likeliest tokens are asked for, and whether under the distribution that is sampled from.
fn top_logprobs_asked(sequences: &BTreeMap<u64, Sequence>, chunks: &[Chunk]) -> Vec<(usize, bool)> {
    let asked = |chunk: &Chunk| {
        let sequence = &sequences[&chunk.sequence];
        std::iter::repeat_n((sequence.top_logprobs, sequence.top_logprobs_processed), chunk.sampled())
    };
    chunks.iter().flat_map(asked).collect()
}

/// The likeliest tokens of each row, as many as asked. Logits are copied to the host only in steps where some are asked for.
fn top_logprobs_of(
    backend: &dyn Backend,
    logits: &Tensor,
    asked: &[(usize, bool)],
    row_params: &[SamplingParams<'_>],
    excluded: &[u32],
) -> Vec<Vec<(u32, f32)>> {
    if asked.iter().all(|&(count, _)| count == 0) {
        return vec![Vec::new(); asked.len()];
    }
    let values = backend.to_f32(logits);
    let row = |((z, &asked), params): ((&[f32], &(usize, bool)), &SamplingParams<'_>)| match asked {
        (0, _) => Vec::new(),
        (count, false) => top_logprobs(z, count),
        (count, true) => top_logprobs_processed(z, params, excluded, count),
    };
    values.chunks_exact(logits.cols()).zip(asked).zip(row_params).map(row).collect()
}

/// Where an image's rows stand in the step's rows.
#[derive(Debug)]
struct ImagePlace {
    sequence: u64,
    start: usize,
    tokens: usize,
    row: usize,
}

/// For each token of a chunk its image row, or -1.
fn image_index<'a>(chunk: &Chunk, images: impl Iterator<Item = &'a ImagePlace>) -> Vec<i32> {
    let mut index = vec![-1; chunk.computed()];
    for place in images {
        let from = place.start.max(chunk.tokens.start);
        let to = (place.start + place.tokens).min(chunk.tokens.end);
        for token in from..to {
            index[token - chunk.tokens.start] = (place.row + token - place.start) as i32;
        }
    }
    index
}
