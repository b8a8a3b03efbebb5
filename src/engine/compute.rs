//! The middle of a step: the forward, the sampling, and, where it can be, the launch of the next forward before the sampled tokens are read.

use std::sync::Arc;
use std::time::Instant;

use super::Engine;
use super::ahead::Launched;
use super::forward::{batch, image_features};
use super::request::TokenEvent;
use super::sample::{Logits, make_masks, sample};
use super::scheduler::{Chunk, schedule_ahead};
use crate::model::parameters::Weights;
use crate::ops::Tensor;

impl Engine {
    /// The second part: computes the chunks, and samples the next token of those that are whole, and one after each drafted token: candidates
    /// in the order of the chunks, none of which stops yet.
    ///
    /// On an asynchronous backend the host works while the device computes: it schedules the next step and makes the grammars' masks before
    /// the logits are there. And the device works while the host does: where the next step is one more token of the same sequences, its
    /// forward is launched before the sampled tokens are read, and takes their ids from the device. A sequence that has stopped meanwhile
    /// is a row of it that nobody reads.
    pub fn compute(&mut self, weights: &Weights, chunks: &[Chunk]) -> Vec<TokenEvent> {
        let logits = match self.ahead.launched.take() {
            Some(launched) => Some(launched.logits(chunks)),
            None => self.forward(weights, chunks),
        };
        let Some(logits) = logits else { return Vec::new() };
        self.look_ahead(chunks);
        let is_next_launched = logits.is_replayed && self.can_launch_ahead();
        make_masks(&mut self.sequences);
        let Engine { model, processor, sequences, cache, decode_graphs, ahead, statistics, .. } = self;
        let mut launch_next = |ids: &Tensor| {
            if !is_next_launched {
                return;
            }
            let batch = batch(sequences, &ahead.chunks, None);
            let rows = logits.rows.clone().unwrap_or_else(|| (0..chunks.len()).collect());
            if let Some(logits) = decode_graphs.forward(model, weights, &batch, Some((ids, &rows)), cache) {
                let sequences = ahead.chunks.iter().map(|chunk| chunk.sequence).collect();
                ahead.launched = Some(Launched { logits, sequences, began: Instant::now() });
                statistics.overlapped_steps += 1;
            }
        };
        let sampled = sample(model, &logits, weights.version, (sequences, processor), chunks, &mut launch_next);
        if let Some(launched) = &mut self.ahead.launched {
            launched.began = Instant::now();
        }
        sampled
    }

    /// The logits of the chunks that sample; `None` where none does.
    fn forward(&mut self, weights: &Weights, chunks: &[Chunk]) -> Option<Logits> {
        let scheduled = (&self.sequences, chunks);
        let images = image_features(&self.model, weights, &self.processor, scheduled, &mut self.images);
        let batch = batch(&self.sequences, chunks, images.as_ref().map(|(_, places)| places.as_slice()));
        let is_plain = images.is_none() && chunks.iter().all(|chunk| chunk.is_decoding() && chunk.draft.is_empty());
        if is_plain
            && let Some(values) = self.decode_graphs.forward(&self.model, weights, &batch, None, &mut self.cache)
        {
            return Some(Logits { values, rows: None, is_replayed: true });
        }
        let features = images.as_ref().map(|(features, _)| features);
        let hidden = self.model.forward_paged(weights, &batch, features, self.cache.layers_mut(&self.model));
        let samples = chunks.iter().any(|chunk| chunk.samples_next);
        samples.then(|| Logits {
            values: Arc::new(self.model.logits(weights, &hidden)),
            rows: None,
            is_replayed: false,
        })
    }

    /// Whether the next step is one more token of the sequences that decode now, if none of them stops: nobody waits to take part, no draft
    /// would repay, and the host reads no logits, which the next replay overwrites.
    fn can_launch_ahead(&self) -> bool {
        let chunks = &self.ahead.chunks;
        let running = self.sequences.values().filter(|sequence| sequence.is_running()).count();
        let reads_logits = |chunk: &Chunk| self.sequences[&chunk.sequence].top_logprobs > 0;
        self.overlaps && running == chunks.len() && !self.ahead.wants_draft && !chunks.iter().any(reads_logits)
    }

    /// Decides what the next step computes in any case. Simulations call it in the place of [`Engine::compute`] (`benches/simulation.rs`).
    pub fn look_ahead(&mut self, chunks: &[Chunk]) {
        self.ahead.chunks = schedule_ahead(&mut self.sequences, &mut self.cache, chunks);
    }
}
