//! Decodes many sequences together over paged keys and values. The engine owns no weights: each step borrows them, and pages never
//! outlive the weights that filled them.

pub mod decode;
pub mod images;
pub mod kv_cache;
pub mod prefix;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod sequence;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::debug_span;

use decode::Decoder;
use images::EncodedImages;
use kv_cache::KvCache;
use request::{Event, GeneratorError, Opening, Sampled};
use sampling::likeliest::likeliest;
use scheduler::{Chunk, Schedule, schedule};
use sequence::{PromptRole, Sequence};

use crate::model::Model;
use crate::model::batch::{Batch, BatchPages};
use crate::model::parameters::Weights;
use crate::ops::attention::PAGE_TOKENS;
use crate::ops::patch_embed::PixelScale;
use crate::ops::sample::{Draw, Drawn};
use crate::ops::{Backend, Tensor};
use crate::prompt::{PreparedImage, Processor};

/// Sizes of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineLimits {
    /// Pages of keys and values, of [`PAGE_TOKENS`] tokens each.
    pub pages: usize,
    /// Prompt and observation tokens of one forward.
    pub prefill_chunk_tokens: usize,
    /// Sequences open together at most; a single larger group is let in alone.
    pub sequences: usize,
}

/// Sequences that were opened together.
#[derive(Debug)]
struct Group {
    /// Those still open, ascending.
    members: Vec<u64>,
}

/// What an engine did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Times that a sequence gave its pages up to another.
    pub preemptions: u64,
    /// Tokens that went through the model.
    pub computed_tokens: u64,
    /// Tokens of the sequences that began, or began anew.
    pub begun_tokens: u64,
    /// Of these, tokens whose keys and values were found.
    pub found_tokens: u64,
    /// Images that went through the vision tower.
    pub encoded_images: u64,
    /// Images that had been through it when they were shown again.
    pub found_images: u64,
}

impl Statistics {
    /// What was done since an earlier reading.
    pub fn since(&self, earlier: &Statistics) -> Statistics {
        Statistics {
            preemptions: self.preemptions - earlier.preemptions,
            computed_tokens: self.computed_tokens - earlier.computed_tokens,
            begun_tokens: self.begun_tokens - earlier.begun_tokens,
            found_tokens: self.found_tokens - earlier.found_tokens,
            encoded_images: self.encoded_images - earlier.encoded_images,
            found_images: self.found_images - earlier.found_images,
        }
    }
}

/// Open sequences and their pages.
pub struct Engine {
    model: Model,
    processor: Arc<Processor>,
    limits: EngineLimits,
    cache: KvCache,
    decoder: Decoder,
    sequences: BTreeMap<u64, Sequence>,
    groups: BTreeMap<u64, Group>,
    /// Groups opened so far; numbers the next.
    groups_opened: u64,
    /// Sequences opened so far.
    opened: u64,
    statistics: Statistics,
    images: EncodedImages,
    /// What [`Engine::likeliest`] tells.
    likeliest: BTreeMap<u64, Vec<(u32, f32)>>,
    /// Version of the weights that filled the pages.
    version: u64,
}

impl Engine {
    /// An engine with all its pages free.
    pub fn new(model: Model, processor: Arc<Processor>, limits: EngineLimits) -> Engine {
        Engine {
            cache: KvCache::new(limits.pages),
            decoder: Decoder::default(),
            model,
            processor,
            limits,
            sequences: BTreeMap::new(),
            groups: BTreeMap::new(),
            groups_opened: 0,
            opened: 0,
            statistics: Statistics::default(),
            images: EncodedImages::default(),
            likeliest: BTreeMap::new(),
            version: 0,
        }
    }

    /// The vision tower's units of an image that was encoded with the present weights.
    pub fn units(&self, image: &Arc<PreparedImage>) -> Option<Arc<Tensor>> {
        self.images.units(image)
    }

    /// Forgets the encoded images; to be called when nobody needs [`Engine::units`] any more. Open sequences encode theirs again.
    pub fn forget_images(&mut self) {
        self.images.clear();
    }

    /// Forgets what earlier sequences left in pages, but for what an open one holds.
    pub fn forget_prefixes(&mut self) {
        self.cache.pool().forget_idle();
    }

    /// Gives the memory of pages and recordings back until the next step; to be called when no sequence is left, so that an update has it.
    pub fn release_pages(&mut self) {
        self.decoder.forget();
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
        let [encoded_images, found_images] = self.images.counts();
        Statistics { encoded_images, found_images, ..self.statistics }
    }

    /// The likeliest tokens in the place of the token that a sequence drew in the last step, with their log-probabilities at temperature 1,
    /// as many as its opening asked for.
    pub fn likeliest(&self, sequence: u64) -> &[(u32, f32)] {
        self.likeliest.get(&sequence).map(Vec::as_slice).unwrap_or_default()
    }

    /// Opens a group of sequences on one prompt, which is computed once. They begin when there are pages for them.
    ///
    /// # Errors
    /// [`GeneratorError::Full`] while as many are open as may be, [`GeneratorError::EmptyPrompt`] if there is nothing to go on from,
    /// [`GeneratorError::TooLong`] if the prompt is longer than the model's context, [`GeneratorError::NeverFits`] if the pages do not
    /// suffice even for one of them alone.
    pub fn open(&mut self, opening: &Opening) -> Result<(), GeneratorError> {
        let (prompt, total) = (opening.token_ids.len(), opening.stops.total_tokens);
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
        let open = self.sequences.len();
        if open > 0 && open + opening.sequences.len() > self.limits.sequences {
            return Err(GeneratorError::Full);
        }
        let number = self.groups_opened;
        let mut members = opening.sequences.clone();
        members.sort_unstable();
        for (place, &member) in members.iter().enumerate() {
            let counter = opening.first_counter.map_or(member, |first| first + place as u64);
            let sequence = Sequence::open(opening, counter, &self.model.config, (number, self.opened))
                .map_err(|e| GeneratorError::Failed(Box::new(e)))?;
            let replaced = self.sequences.insert(member, sequence);
            assert!(replaced.is_none(), "sequence {member} was opened twice");
            self.opened += 1;
        }
        if !members.is_empty() {
            self.groups.insert(number, Group { members });
            self.groups_opened += 1;
        }
        Ok(())
    }

    /// Adds tokens that the model did not draw to a stopped sequence, and lets it run again.
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
        sequence.append(ids, images, &self.model.config).map_err(|e| GeneratorError::Failed(Box::new(e)))
    }

    /// Forgets a sequence and frees what it alone held.
    pub fn close(&mut self, number: u64) {
        let Some(mut sequence) = self.sequences.remove(&number) else { return };
        let group = self.groups.get_mut(&sequence.group).expect("a sequence's group is open");
        group.members.retain(|&member| member != number);
        if sequence.prompt_role == PromptRole::Leads {
            // What it has of the common prompt goes to one of those that wait for it.
            let waits = |member: &&u64| self.sequences[*member].prompt_role == PromptRole::Waits;
            if let Some(heir) = group.members.iter().find(waits).and_then(|heir| self.sequences.get_mut(heir)) {
                // Where it began anew it may have found more than the prompt, which is its own.
                heir.computed = sequence.computed.min(sequence.prompt_tokens() - 1);
                heir.table = self.cache.pool().share(&sequence.table, heir.computed.div_ceil(PAGE_TOKENS));
            }
        }
        self.cache.pool().release(&mut sequence.table);
        if group.members.is_empty() {
            self.groups.remove(&sequence.group);
        }
    }

    /// Advances every running sequence: schedule, forward, sample, accept.
    ///
    /// # Errors
    /// None at present; a backend that can fail reports here.
    pub fn step(&mut self, weights: &Weights) -> Result<Vec<Event>, GeneratorError> {
        let pass = self.plan(weights.version);
        if pass.chunks.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: usize = pass.chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let _span = debug_span!("step", sequences = pass.chunks.len(), tokens).entered();
        let drawn = self.compute(weights, &pass.chunks);
        Ok(self.accept(&pass.chunks, &drawn))
    }

    /// The first part of a step: what is computed under weights of that version; its pages are there.
    pub fn plan(&mut self, version: u64) -> Schedule {
        let _scheduling = debug_span!("schedule").entered();
        self.forget_other_version(version);
        self.share_prompts();
        let pass = schedule(&mut self.sequences, &mut self.cache, self.limits.prefill_chunk_tokens);
        self.statistics.preemptions += pass.preempted as u64;
        self.statistics.begun_tokens += pass.begun_tokens as u64;
        self.statistics.found_tokens += pass.found_tokens as u64;
        pass
    }

    /// Keys, values and images of other weights are void: sequences compute theirs again.
    fn forget_other_version(&mut self, version: u64) {
        if version == self.version {
            return;
        }
        self.version = version;
        self.images.clear();
        for sequence in self.sequences.values_mut() {
            sequence.release(self.cache.pool());
        }
        self.cache.pool().forget();
    }

    /// In each group one sequence computes the common prompt but for its last token; there the others fork off. Those that have drawn
    /// already, and lost their pages, find more of what they had by themselves.
    fn share_prompts(&mut self) {
        for group in self.groups.values() {
            let is_candidate = |member: &&u64| {
                let sequence = &self.sequences[*member];
                sequence.computed > 0 || !sequence.is_stopped()
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
                let forked = (lacks && can_fork)
                    .then(|| self.cache.pool().share(&self.sequences[&leader].table, common.div_ceil(PAGE_TOKENS)));
                let sequence = self.sequences.get_mut(&member).expect("members are open");
                sequence.prompt_role = if lacks && !is_ready { PromptRole::Waits } else { PromptRole::Alone };
                leads |= sequence.prompt_role == PromptRole::Waits;
                if let Some(table) = forked {
                    sequence.table = table;
                    sequence.computed = common;
                }
            }
            let leader = self.sequences.get_mut(&leader).expect("members are open");
            leader.prompt_role = if leads { PromptRole::Leads } else { PromptRole::Alone };
        }
    }

    /// The second part: computes the chunks, and draws the next token of those that are whole.
    pub fn compute(&mut self, weights: &Weights, chunks: &[Chunk]) -> Vec<Drawn> {
        let images = self.image_rows(weights, chunks);
        let batch = self.batch(chunks, images.as_ref().map(|(_, places)| places.as_slice()));
        let draws = draws(&self.sequences, chunks);
        let is_decoding = images.is_none() && chunks.iter().all(|chunk| chunk.draws && chunk.tokens.len() == 1);
        if is_decoding && let Some(logits) = self.decoder.forward(&self.model, weights, &batch, &mut self.cache) {
            let drawn = self.model.backend.sample(logits, &draws);
            self.likeliest = likeliest_of(&*self.model.backend, logits, &self.sequences, chunks);
            return drawn;
        }
        let rows = images.as_ref().map(|(rows, _)| rows);
        let hidden = self.model.forward_paged(weights, &batch, rows, self.cache.layers_mut(&self.model));
        if draws.is_empty() {
            return Vec::new();
        }
        let logits = self.model.logits(weights, &hidden);
        let drawn = self.model.backend.sample(&logits, &draws);
        self.likeliest = likeliest_of(&*self.model.backend, &logits, &self.sequences, chunks);
        drawn
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
        let units: Vec<Arc<Tensor>> = images.iter().filter_map(|image| self.images.units(image)).collect();
        let units: Vec<&Tensor> = units.iter().map(|units| &**units).collect();
        let units = self.model.backend.concat_rows(&units);
        Some((self.model.merger_forward(weights, &units).0, places))
    }

    fn batch(&self, chunks: &[Chunk], images: Option<&[ImagePlace]>) -> Batch {
        let mut batch = Batch { bounds: vec![0], rows: Some(Vec::new()), ..Batch::default() };
        let mut pages = BatchPages::default();
        for chunk in chunks {
            let sequence = &self.sequences[&chunk.sequence];
            batch.ids.extend(&sequence.ids[chunk.tokens.clone()]);
            batch.positions.extend(&sequence.positions[chunk.tokens.clone()]);
            batch.bounds.push(batch.ids.len());
            pages.slots.extend(chunk.tokens.clone().map(|position| sequence.table.slot(position)));
            pages.tables.push(sequence.table.pages().to_vec());
            pages.lengths.push(chunk.tokens.end);
            if let Some(images) = images {
                let own = images.iter().filter(|place| place.sequence == chunk.sequence);
                batch.image_index.extend(image_index(chunk, own));
            }
            if chunk.draws {
                let last = batch.ids.len() - 1;
                batch.rows.get_or_insert_default().push(last);
            }
        }
        batch.pages = Some(pages);
        batch
    }

    /// The third part: notes what is computed, and gives each drawn token to its sequence. A simulation has this and the first.
    pub fn accept(&mut self, chunks: &[Chunk], drawn: &[Drawn]) -> Vec<Event> {
        for chunk in chunks {
            self.statistics.computed_tokens += chunk.tokens.len() as u64;
            let sequence = self.sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
            sequence.computed = chunk.tokens.end;
            sequence.keep_full_pages(self.cache.pool());
        }
        let mut events = Vec::with_capacity(drawn.len());
        for (chunk, drawn) in chunks.iter().filter(|chunk| chunk.draws).zip(drawn) {
            let sequence = self.sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
            let token = Sampled {
                id: drawn.token,
                raw: drawn.raw,
                tempered: drawn.tempered,
                temperature: sequence.sampler.temperature(),
                processed: drawn.processed,
                kept: drawn.kept,
                entropy: drawn.entropy,
            };
            let tokenizer = self.processor.tokenizer();
            let bytes = if tokenizer.is_special(token.id) { &[] } else { tokenizer.token_bytes(token.id) };
            let reason = sequence.accept(token, bytes, &self.model.config);
            events.push(Event::Token { sequence: chunk.sequence, token });
            events.extend(reason.map(|reason| Event::Stopped { sequence: chunk.sequence, reason }));
        }
        events
    }
}

/// How the next token of each chunk that has one is drawn.
fn draws<'a>(sequences: &'a BTreeMap<u64, Sequence>, chunks: &[Chunk]) -> Vec<Draw<'a>> {
    let drawing = chunks.iter().filter(|chunk| chunk.draws).map(|chunk| &sequences[&chunk.sequence]);
    drawing.map(|sequence| sequence.sampler.draw(sequence.ids.len())).collect()
}

/// The likeliest tokens for each sequence that draws and asks for them. Nobody else's steps bring logits to the host.
fn likeliest_of(
    backend: &dyn Backend,
    logits: &Tensor,
    sequences: &BTreeMap<u64, Sequence>,
    chunks: &[Chunk],
) -> BTreeMap<u64, Vec<(u32, f32)>> {
    let drawing = chunks.iter().filter(|chunk| chunk.draws).map(|chunk| chunk.sequence).enumerate();
    let asking: Vec<(usize, u64)> = drawing.filter(|(_, sequence)| sequences[sequence].likeliest > 0).collect();
    if asking.is_empty() {
        return BTreeMap::new();
    }
    let (values, vocab) = (backend.to_f32(logits), logits.cols());
    let of_row = |(row, sequence): (usize, u64)| {
        let z = &values[row * vocab..(row + 1) * vocab];
        (sequence, likeliest(z, sequences[&sequence].likeliest))
    };
    asking.into_iter().map(of_row).collect()
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
    let mut index = vec![-1; chunk.tokens.len()];
    for place in images {
        let from = place.start.max(chunk.tokens.start);
        let to = (place.start + place.tokens).min(chunk.tokens.end);
        for token in from..to {
            index[token - chunk.tokens.start] = (place.row + token - place.start) as i32;
        }
    }
    index
}
