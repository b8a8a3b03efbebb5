//! From the logits of a step to sampled tokens.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use super::request::TokenEvent;
use super::sampling::SamplingState;
use super::sampling::top_logprobs::{top_logprobs, top_logprobs_processed};
use super::scheduler::Chunk;
use super::sequence::Sequences;
use crate::model::Model;
use crate::ops::sample::{SampledToken, SamplingParams};
use crate::ops::{Backend, Tensor};
use crate::prompt::Processor;

/// The logits of a step.
pub struct Logits {
    /// F32 `[at least rows, vocab]`.
    pub values: Arc<Tensor>,
    /// The row of each chunk, ascending, where some rows belong to none; one row behind the other where absent.
    pub rows: Option<Vec<usize>>,
    /// They are a graph's: its next replay overwrites them.
    pub is_replayed: bool,
}

/// Samples from the logits of the chunks that sample. Placeholders of pictures are never sampled. `meanwhile` is given the ids of all rows
/// before they are read ([`crate::ops::sample::Sample::sample_overlapped`]).
pub fn sample(
    model: &Model,
    logits: &Logits,
    weights_version: u64,
    (sequences, processor): (&Sequences, &Processor),
    chunks: &[Chunk],
    meanwhile: &mut dyn FnMut(&Tensor),
) -> Vec<TokenEvent> {
    let samplers = samplers(sequences, processor, chunks);
    let row_params: Vec<SamplingParams<'_>> =
        samplers.iter().map(|(sampler, position)| sampler.params(*position)).collect();
    let excluded = model.config.placeholders();
    let sampled = sample_rows(model, logits, &row_params, &excluded, meanwhile);
    let top_logprobs = top_logprobs_of(
        &*model.backend,
        &logits.values,
        &top_logprobs_asked(sequences, chunks),
        &row_params,
        &excluded,
    );
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

/// What is sampled from the rows that belong to chunks, one for each of `row_params`.
fn sample_rows(
    model: &Model,
    logits: &Logits,
    row_params: &[SamplingParams<'_>],
    excluded: &[u32],
    meanwhile: &mut dyn FnMut(&Tensor),
) -> Vec<SampledToken> {
    let (backend, values) = (&*model.backend, &logits.values);
    let Some(rows) = &logits.rows else {
        return backend.sample_overlapped(values, row_params, excluded, meanwhile);
    };
    let mut spread = vec![SamplingParams::GREEDY; rows.last().map_or(0, |last| last + 1)];
    rows.iter().zip(row_params).for_each(|(&row, params)| spread[row] = *params);
    let sampled = backend.sample_overlapped(values, &spread, excluded, meanwhile);
    rows.iter().map(|&row| sampled[row]).collect()
}

/// Makes the masks of sequences with grammars.
pub fn make_masks(sequences: &mut Sequences) {
    let running = sequences.values_mut().filter(|sequence| sequence.is_running());
    let mut lacking: Vec<&mut SamplingState> =
        running.map(|sequence| &mut sequence.sampler).filter(|sampler| sampler.lacks_mask()).collect();
    lacking.par_iter_mut().for_each(|sampler| sampler.make_mask());
}

/// What a token that the model sampled adds to its text.
pub fn own_bytes(processor: &Processor, id: u32) -> &[u8] {
    let tokenizer = processor.tokenizer();
    if tokenizer.is_special(id) { &[] } else { tokenizer.token_bytes(id) }
}

/// How each row's token is sampled, and its position in its sequence: the next token as the sequence is, the one after a drafted token as if
/// that had been sampled.
fn samplers<'a>(
    sequences: &'a Sequences,
    processor: &Processor,
    chunks: &[Chunk],
) -> Vec<(Cow<'a, SamplingState>, usize)> {
    let mut samplers = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.samples_next) {
        let sequence = &sequences[&chunk.sequence];
        let mut next = Cow::Borrowed(&sequence.sampler);
        for (position, &id) in (sequence.ids.len()..).zip(&chunk.draft) {
            let mut behind = SamplingState::clone(&next);
            behind.see(&[id]);
            behind.read_own(id, own_bytes(processor, id));
            samplers.push((std::mem::replace(&mut next, Cow::Owned(behind)), position));
        }
        samplers.push((next, sequence.ids.len() + chunk.draft.len()));
    }
    samplers
}

/// For each row: how many of the likeliest tokens are asked for, and whether under the distribution that is sampled from.
fn top_logprobs_asked(sequences: &Sequences, chunks: &[Chunk]) -> Vec<(usize, bool)> {
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
