//! CUDA graphs of decoding steps. Most steps of a rollout give every sequence one token, and what differs between two of them is data: so
//! the launches of such a step are captured once for each size of batch, and then repeated, which on a GPU costs the host one launch instead
//! of several hundred. A GPU makes a CUDA graph of them ([`crate::ops::Buffers::capture`]); on `simt` they are played one by one. Updates change
//! weights in place, so a graph outlives them; the memory that a graph runs in is its own for as long as it lives. Batches are padded to few sizes; a row's bits do not depend on its neighbours, so padding shows in none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kv_cache::KvCache;
use crate::model::Model;
use crate::model::batch::{Batch, BatchTensors};
use crate::model::parameters::Weights;
use crate::ops::attention::PAGE_TOKENS;
use crate::ops::{CapturedGraph, Tensor};

/// Graphs that are kept, the last used ones: a batch changes its size now and then, and mostly to one near by.
pub const GRAPHS_MAX: usize = 4;
/// The least columns of a graph's page tables: a split of attention's keys.
const PAGES_MIN: usize = 32;

/// The key of a graph: sequences, and pages that each may have.
type Size = (usize, usize);

/// Captured steps of one model over one cache.
#[derive(Default)]
pub struct DecodeGraphs {
    steps: BTreeMap<Size, Step>,
    /// Steps that were replayed.
    uses: u64,
    /// Identifies the weights that the steps read.
    weights: u64,
    /// The backend captures no graphs, or nobody wants them.
    is_useless: bool,
}

struct Step {
    inputs: BatchTensors,
    graph: Box<dyn CapturedGraph>,
    /// The count of uses at its last one.
    used: u64,
}

impl DecodeGraphs {
    /// None are captured: each step launches its kernels one by one.
    pub fn none() -> DecodeGraphs {
        DecodeGraphs { is_useless: true, ..DecodeGraphs::default() }
    }

    /// The logits of a batch of one token a sequence, F32 `[at least sequences, vocab]`; `None` where the backend captures no graphs. The ids
    /// are the batch's, or, where there is `sampled`, the rows of it that are named. The next call overwrites the logits.
    pub fn forward(
        &mut self,
        model: &Model,
        weights: &Weights,
        batch: &Batch,
        sampled: Option<(&Tensor, &[usize])>,
        cache: &mut KvCache,
    ) -> Option<Arc<Tensor>> {
        if self.is_useless {
            return None;
        }
        // Updates are made in place, so graphs outlive them; other weights need others.
        let identity = identity(model, weights);
        if identity != self.weights {
            self.forget();
            self.weights = identity;
        }
        let (size, batch) = padded(batch, cache.scratch());
        let pages = cache.layers_mut(model);
        let backend = &*model.backend;
        if let Some(step) = self.steps.get_mut(&size) {
            batch.overwrite(&mut step.inputs, &model.config, backend);
        } else {
            self.evict_oldest();
            let inputs = batch.upload(&model.config, backend);
            let mut logits = || model.logits(weights, &model.forward_uploaded(weights, &inputs, None, pages));
            let Some(graph) = backend.capture(&mut logits) else {
                self.is_useless = true;
                return None;
            };
            self.steps.insert(size, Step { inputs, graph, used: 0 });
        }
        self.uses += 1;
        let step = self.steps.get_mut(&size)?;
        step.used = self.uses;
        if let Some((ids, rows)) = sampled {
            step.inputs.overwrite_ids(ids, rows, backend);
        }
        Some(step.graph.replay())
    }

    /// Drops the graph that was not used for longest, if there are as many as may be.
    fn evict_oldest(&mut self) {
        let oldest = self.steps.iter().min_by_key(|(_, step)| step.used).map(|(size, _)| *size);
        if let Some(oldest) = oldest.filter(|_| self.steps.len() >= GRAPHS_MAX) {
            self.steps.remove(&oldest);
        }
    }

    /// Drops the graphs and their memory.
    pub fn forget(&mut self) {
        self.steps.clear();
    }
}

/// Rows of the graph that takes a batch of `sequences`.
pub fn padded_sequences(sequences: usize) -> usize {
    match sequences {
        few if few <= PAGE_TOKENS => few.next_power_of_two(),
        many => many.next_multiple_of(PAGE_TOKENS),
    }
}

/// A batch as large as the next size, with tables as wide.
fn padded(batch: &Batch, scratch: u32) -> (Size, Batch) {
    let mut batch = batch.clone();
    let sequences = padded_sequences(batch.ids.len());
    batch.rows = None;
    batch.pad(sequences, scratch);
    let pages = batch.pages.as_mut().expect("decoding has pages");
    pages.width_min = pages.width().next_power_of_two().max(PAGES_MIN);
    ((sequences, pages.width_min), batch)
}

/// A number that differs where any parameter lies elsewhere.
fn identity(model: &Model, weights: &Weights) -> u64 {
    let addresses = weights.values.iter().map(|parameter| model.backend.addresses(parameter).start);
    // FNV-1a over whole words.
    addresses.fold(0xcbf2_9ce4_8422_2325, |hash, address| (hash ^ address).wrapping_mul(0x0000_0100_0000_01b3))
}
