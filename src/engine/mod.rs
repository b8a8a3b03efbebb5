//! Decodes many sequences together over paged keys and values. The engine owns no weights: each step borrows them, and pages never
//! outlive the weights that filled them.

pub mod images;
pub mod kv_cache;
pub mod request;
pub mod sampling;
pub mod scheduler;
pub mod sequence;

use std::collections::BTreeMap;
use std::sync::Arc;

use images::EncodedImages;
use kv_cache::KvCache;
use request::{Event, GeneratorError, Opening, Sampled};
use scheduler::{Chunk, schedule};
use sequence::Sequence;

use crate::model::Model;
use crate::model::batch::{Batch, BatchPages};
use crate::model::parameters::Weights;
use crate::ops::Tensor;
use crate::ops::attention::PAGE_TOKENS;
use crate::ops::patch_embed::PixelScale;
use crate::ops::sample::{Draw, Drawn};
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

/// Open sequences and their pages.
pub struct Engine {
    model: Model,
    processor: Arc<Processor>,
    limits: EngineLimits,
    cache: KvCache,
    sequences: BTreeMap<u64, Sequence>,
    /// Pages kept for each group's shared prompt, and how many of its sequences are open.
    groups: BTreeMap<u64, (usize, usize)>,
    /// Pages kept for open sequences and groups.
    reserved: usize,
    images: EncodedImages,
    /// Version of the weights that filled the pages.
    version: u64,
}

impl Engine {
    /// An engine with all its pages free.
    pub fn new(model: Model, processor: Arc<Processor>, limits: EngineLimits) -> Engine {
        let cache = KvCache::new(&model, limits.pages);
        Engine {
            cache,
            model,
            processor,
            limits,
            sequences: BTreeMap::new(),
            groups: BTreeMap::new(),
            reserved: 0,
            images: EncodedImages::default(),
            version: 0,
        }
    }

    /// The vision tower's units of an image that was encoded with the present weights.
    pub fn units(&self, image: &Arc<PreparedImage>) -> Option<Arc<Tensor>> {
        self.images.units(image)
    }

    /// Forgets the encoded images; to be called when no sequence is left and nobody needs [`Engine::units`] any more.
    pub fn forget_images(&mut self) {
        self.images.clear();
    }

    /// Pages that nobody holds, and pages in all.
    pub fn pages(&mut self) -> (usize, usize) {
        let pool = self.cache.pool();
        (pool.free(), pool.capacity())
    }

    /// Opens a group of sequences on one prompt, which is computed once.
    ///
    /// # Errors
    /// [`GeneratorError::Full`] while others hold the pages that it may need, [`GeneratorError::TooLong`] if it never fits.
    pub fn open(&mut self, opening: &Opening) -> Result<(), GeneratorError> {
        let (prompt, total) = (opening.token_ids.len(), opening.stops.total_tokens);
        let context = self.model.config.context_tokens;
        if prompt == 0 || prompt + 1 > context {
            return Err(GeneratorError::TooLong { needed: prompt + 1, limit: context });
        }
        let shared = prompt / PAGE_TOKENS;
        let longest = (prompt + total).min(context);
        let own = longest.div_ceil(PAGE_TOKENS) - shared;
        let needed = shared + own * opening.sequences.len();
        if needed > self.limits.pages {
            return Err(GeneratorError::TooLong {
                needed: needed * PAGE_TOKENS,
                limit: self.limits.pages * PAGE_TOKENS,
            });
        }
        let open = self.sequences.len();
        let is_crowded = open > 0 && open + opening.sequences.len() > self.limits.sequences;
        if is_crowded || self.reserved + needed > self.limits.pages {
            return Err(GeneratorError::Full);
        }
        let Some(&leader) = opening.sequences.first() else { return Ok(()) };
        for &number in &opening.sequences {
            let mut sequence = Sequence::open(opening, number, &self.model.config, (leader, own))
                .map_err(|e| GeneratorError::Failed(Box::new(e)))?;
            sequence.follows = (number != leader).then_some(leader);
            let replaced = self.sequences.insert(number, sequence);
            assert!(replaced.is_none(), "sequence {number} was opened twice");
        }
        self.groups.insert(leader, (shared, opening.sequences.len()));
        self.reserved += needed;
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
        self.hand_over_prefill(number, &sequence);
        self.cache.pool().release(&mut sequence.table);
        self.reserved -= sequence.reserved;
        if let Some((shared, open)) = self.groups.get_mut(&sequence.group) {
            *open -= 1;
            if *open == 0 {
                self.reserved -= *shared;
                self.groups.remove(&sequence.group);
            }
        }
    }

    /// The followers of a sequence that leaves during its prefill go on from where it was.
    fn hand_over_prefill(&mut self, left: u64, sequence: &Sequence) {
        let followers: Vec<u64> =
            self.sequences.iter().filter(|(_, s)| s.follows == Some(left)).map(|(&n, _)| n).collect();
        let Some(&heir) = followers.first() else { return };
        for follower in followers {
            let other = self.sequences.get_mut(&follower).expect("followers are open");
            if follower == heir {
                other.table = self.cache.pool().share(&sequence.table);
                other.computed = sequence.computed;
            }
            other.follows = (follower != heir).then_some(heir);
        }
    }

    /// Advances every running sequence: schedule, forward, sample, accept.
    ///
    /// # Errors
    /// None at present; a backend that can fail reports here.
    pub fn step(&mut self, weights: &Weights) -> Result<Vec<Event>, GeneratorError> {
        self.forget_other_version(weights.version);
        self.fork_followers();
        let chunks = schedule(&self.sequences, self.limits.prefill_chunk_tokens);
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.forward(weights, &chunks);
        let drawn = self.sample(&chunks, logits.as_ref());
        Ok(self.accept(&chunks, &drawn))
    }

    /// Keys, values and images of other weights are void: sequences compute theirs again.
    fn forget_other_version(&mut self, version: u64) {
        if version == self.version {
            return;
        }
        self.version = version;
        self.images.clear();
        for sequence in self.sequences.values_mut() {
            self.cache.pool().release(&mut sequence.table);
            sequence.computed = 0;
        }
    }

    /// Sequences whose leader has computed their common prompt but for its last token go on by themselves.
    fn fork_followers(&mut self) {
        let ready = |sequence: &Sequence| {
            let leader = sequence.follows.and_then(|leader| self.sequences.get(&leader))?;
            (leader.computed + 1 >= leader.prompt_tokens()).then_some(leader.computed.min(leader.prompt_tokens() - 1))
        };
        let forks: Vec<(u64, usize)> =
            self.sequences.iter().filter_map(|(&number, sequence)| Some((number, ready(sequence)?))).collect();
        for (number, computed) in forks {
            let leader = self.sequences[&number].follows.expect("a fork follows");
            let table = self.cache.pool().share(&self.sequences[&leader].table);
            let sequence = self.sequences.get_mut(&number).expect("a fork is open");
            sequence.table = table;
            sequence.computed = computed;
            sequence.follows = None;
        }
    }

    /// Computes the chunks; the logits of those that draw, a row each.
    fn forward(&mut self, weights: &Weights, chunks: &[Chunk]) -> Option<Tensor> {
        let images = self.image_rows(weights, chunks);
        let batch = self.batch(chunks, images.as_ref().map(|(_, places)| places.as_slice()));
        let rows = images.as_ref().map(|(rows, _)| rows);
        let hidden = self.model.forward_paged(weights, &batch, rows, self.cache.layers_mut(&self.model));
        for chunk in chunks {
            self.sequence_mut(chunk.sequence).computed = chunk.tokens.end;
        }
        (hidden.rows() > 0).then(|| self.model.logits(weights, &hidden))
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

    fn batch(&mut self, chunks: &[Chunk], images: Option<&[ImagePlace]>) -> Batch {
        let mut batch = Batch { bounds: vec![0], rows: Some(Vec::new()), ..Batch::default() };
        let mut pages = BatchPages::default();
        for chunk in chunks {
            let sequence = self.sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
            self.cache.make_writable(&mut sequence.table, chunk.tokens.start, chunk.tokens.end);
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

    fn sample(&self, chunks: &[Chunk], logits: Option<&Tensor>) -> Vec<Drawn> {
        let Some(logits) = logits else { return Vec::new() };
        let draws: Vec<Draw<'_>> = chunks
            .iter()
            .filter(|chunk| chunk.draws)
            .map(|chunk| {
                let sequence = &self.sequences[&chunk.sequence];
                sequence.sampler.draw(sequence.ids.len())
            })
            .collect();
        self.model.backend.sample(logits, &draws)
    }

    /// Gives each drawn token to its sequence.
    fn accept(&mut self, chunks: &[Chunk], drawn: &[Drawn]) -> Vec<Event> {
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

    fn sequence_mut(&mut self, number: u64) -> &mut Sequence {
        self.sequences.get_mut(&number).expect("scheduled sequences are open")
    }
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
