//! Sampling: see [`crate::ops::sample`].

use super::Reference;
use super::buffers::{f64s, floats};
use super::token_logprob::{exclude, log_sum_exp};
use crate::ops::linear::Linear;
use crate::ops::sample::{Sample, SampledToken, SamplingParams, philox_uniform, sampled_ids};
use crate::ops::{Dtype, Tensor};

impl Sample for Reference {
    fn logits(&self, h: &Tensor, w: &Tensor) -> Tensor {
        let z = self.linear_forward(h, w, None);
        floats(f64s(&z).to_vec(), z.shape(), Dtype::F32)
    }

    fn sample_overlapped(
        &self,
        logits: &Tensor,
        row_params: &[SamplingParams<'_>],
        excluded: &[u32],
        meanwhile: &mut dyn FnMut(&Tensor),
    ) -> Vec<SampledToken> {
        assert!(logits.rows() >= row_params.len(), "sample: {} rows of {logits:?}", row_params.len());
        let row = |(z, params): (&[f64], &SamplingParams<'_>)| sample_row(z, params, excluded);
        let sampled: Vec<SampledToken> = f64s(logits).chunks_exact(logits.cols()).zip(row_params).map(row).collect();
        if !sampled.is_empty() {
            meanwhile(&sampled_ids(self, &sampled));
        }
        sampled
    }
}

fn sample_row(z: &[f64], params: &SamplingParams<'_>, excluded: &[u32]) -> SampledToken {
    let sampled_from = exclude(constrain(penalise(z, params), params), excluded);
    let is_cut = params.is_constrained() || !excluded.is_empty();
    let (token, processed_logprob, kept_mass) = if is_cut && sampled_from.iter().all(|z| *z == f64::NEG_INFINITY) {
        (0, f64::NEG_INFINITY, 0.0)
    } else if params.temperature == 0.0 {
        (ranked(&sampled_from)[0], 0.0, 1.0)
    } else {
        sample_from(&sampled_from, params, is_cut)
    };
    let inverse = if params.temperature == 0.0 { 1.0 } else { 1.0 / f64::from(params.temperature) };
    let scaled: Vec<f64> = exclude(z.iter().map(|z| z * inverse).collect(), excluded);
    let raw_lse = log_sum_exp(z);
    SampledToken {
        token: token as u32,
        logprob: (z[token] - raw_lse) as f32,
        logprob_at_temperature: (z[token] * inverse - log_sum_exp(&scaled)) as f32,
        processed_logprob: processed_logprob as f32,
        kept_mass: kept_mass as f32,
        entropy: -z.iter().map(|z| (z - raw_lse).exp() * (z - raw_lse)).sum::<f64>() as f32,
    }
}

fn penalise(z: &[f64], params: &SamplingParams<'_>) -> Vec<f64> {
    let penalty = f64::from(params.repetition_penalty);
    let mut penalised = z.to_vec();
    for token in params.seen.iter().map(|token| *token as usize) {
        penalised[token] = if z[token] > 0.0 { z[token] / penalty } else { z[token] * penalty };
    }
    penalised
}

fn constrain(mut z: Vec<f64>, params: &SamplingParams<'_>) -> Vec<f64> {
    for &(token, bias) in params.bias {
        z[token as usize] += f64::from(bias);
    }
    for (_, z) in z.iter_mut().enumerate().filter(|(token, _)| !params.allows(*token)) {
        *z = f64::NEG_INFINITY;
    }
    z
}

/// Token ids by descending value, ties by ascending id.
fn ranked(z: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..z.len()).collect();
    ids.sort_by(|a, b| (z[*b] + 0.0).total_cmp(&(z[*a] + 0.0))); // stable, and −0 + 0 = 0
    ids
}

/// The token, its log-probability after the cuts and the share of the mass that they kept. If `is_cut`, logits of minus infinity are no tokens.
fn sample_from(sampled_from: &[f64], params: &SamplingParams<'_>, is_cut: bool) -> (usize, f64, f64) {
    let scaled: Vec<f64> = sampled_from.iter().map(|z| z / f64::from(params.temperature)).collect();
    let lse = log_sum_exp(&scaled);
    let mut ids = ranked(&scaled);
    if is_cut {
        ids.retain(|id| scaled[*id] > f64::NEG_INFINITY);
    }
    let possible = ids.len();
    let p = |id: usize| (scaled[id] - lse).exp();
    if params.top_k > 0 {
        ids.truncate(params.top_k);
    }
    if params.top_p < 1.0 {
        let wanted = f64::from(params.top_p) * ids.iter().map(|id| p(*id)).sum::<f64>();
        let mut mass = 0.0;
        let enough = ids.iter().position(|id| {
            mass += p(*id);
            mass >= wanted
        });
        ids.truncate(enough.map_or(ids.len(), |last| last + 1));
    }
    let least = f64::from(params.min_p) * p(ids[0]);
    ids.retain(|id| p(*id) >= least);

    let kept: f64 = ids.iter().map(|id| p(*id)).sum();
    let target = philox_uniform(params.seed, params.sequence, params.position) * kept;
    let mut mass = 0.0;
    let sampled = ids.iter().copied().find(|id| {
        mass += p(*id);
        mass > target
    });
    let token = sampled.unwrap_or(ids[ids.len() - 1]);
    let nothing_cut = ids.len() == possible;
    (token, scaled[token] - lse - kept.ln(), if nothing_cut { 1.0 } else { kept })
}
