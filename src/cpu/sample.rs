//! Sampling the next token. Whatever is kept is a prefix of the tokens in descending probability; it is found by the mass of 2,033
//! classes of probability, and only the class where a prefix ends is sorted.

use rayon::prelude::*;

use super::linear::{self, Size, Start};
use super::log_sum_exp::{exclude, exp_shifted, log_probability, softmax, softmax_at_temperature};
use super::simd::{LANES, kernel};
use super::{Cpu, PARALLEL_COST, floats, floats_mut, parameter};
use crate::ops::sample::{Sample, SampledToken, SamplingParams, philox_uniform, sampled_ids};
use crate::ops::{Dtype, Tensor};

/// Rough number of operations per logit.
const COST: usize = 40;

impl Sample for Cpu {
    fn logits(&self, h: &Tensor, w: &Tensor) -> Tensor {
        let size = Size { rows: h.rows(), cols: w.rows(), depth: h.cols() };
        assert_eq!(w.cols(), size.depth, "logits: h {h:?}, w {w:?}");
        let mut z = self.empty(&[size.rows, size.cols], Dtype::F32);
        linear::forward(self, floats(h), parameter(w), Start::Zero, size, floats_mut(&mut z));
        z
    }

    fn sample_overlapped(
        &self,
        logits: &Tensor,
        row_params: &[SamplingParams<'_>],
        excluded: &[u32],
        meanwhile: &mut dyn FnMut(&Tensor),
    ) -> Vec<SampledToken> {
        let vocab = logits.cols();
        assert!(
            logits.rows() >= row_params.len() && vocab > 0,
            "sample: logits {logits:?}, parameters of {} rows",
            row_params.len()
        );
        let row = |(z, params): (&[f32], &SamplingParams<'_>)| sample_row(self, z, params, excluded);
        let sampled: Vec<SampledToken> = if logits.len() * COST < PARALLEL_COST {
            floats(logits).chunks_exact(vocab).zip(row_params).map(row).collect()
        } else {
            floats(logits).par_chunks_exact(vocab).zip(row_params).map(row).collect()
        };
        if !sampled.is_empty() {
            meanwhile(&sampled_ids(self, &sampled));
        }
        sampled
    }
}

fn sample_row(cpu: &Cpu, z: &[f32], params: &SamplingParams<'_>, excluded: &[u32]) -> SampledToken {
    let greedy = params.temperature == 0.0;
    let inverse = if greedy { 1.0 } else { 1.0 / params.temperature };
    let raw = softmax(cpu.simd, z, 1.0);

    // A copy of the row, where something changes it.
    let is_penalised = params.repetition_penalty != 1.0 && !params.seen.is_empty();
    let is_adjusted = is_penalised || params.is_constrained();
    let mut copy = (is_adjusted || !excluded.is_empty()).then(|| {
        let mut copy = cpu.scratch(z.len());
        copy.copy_from_slice(z);
        copy
    });
    let possible_z = copy.as_deref_mut().map_or(z, |copy| exclude(copy, excluded));
    let at_temperature = softmax_at_temperature(cpu.simd, possible_z, inverse, raw, excluded);
    if let (Some(copy), true) = (copy.as_deref_mut(), is_adjusted) {
        adjust(copy, z, params, is_penalised);
        exclude(copy, excluded);
    }
    let sampled_from = copy.as_deref().unwrap_or(z);
    let possible = match params.is_constrained() {
        true => sampled_from.iter().filter(|z| **z != f32::NEG_INFINITY).count(),
        false => z.len() - excluded.len(),
    };
    let (token, processed_logprob, kept_mass) = if possible == 0 {
        (0, f32::NEG_INFINITY, 0.0)
    } else if greedy {
        (argmax(cpu.simd, sampled_from), 0.0, 1.0)
    } else {
        let softmax = if is_adjusted { softmax(cpu.simd, sampled_from, inverse) } else { at_temperature };
        let mut ranking = Ranking::new(cpu, sampled_from, inverse, softmax.top, possible);
        let (token, kept_mass) = ranking.sample(params);
        (token, log_probability(sampled_from, inverse, softmax.lse, token) - kept_mass.ln(), kept_mass)
    };
    SampledToken {
        token: token as u32,
        logprob: log_probability(z, 1.0, raw.lse, token),
        logprob_at_temperature: log_probability(z, inverse, at_temperature.lse, token),
        processed_logprob,
        kept_mass,
        entropy: raw.entropy,
    }
}

/// Applies repetition penalty, bias and mask to a copy of the logits `z`.
fn adjust(adjusted: &mut [f32], z: &[f32], params: &SamplingParams<'_>, is_penalised: bool) {
    if is_penalised {
        let penalty = params.repetition_penalty;
        for token in params.seen.iter().map(|&token| token as usize) {
            adjusted[token] = if z[token] > 0.0 { z[token] / penalty } else { z[token] * penalty };
        }
    }
    for &(token, bias) in params.bias {
        adjusted[token as usize] += bias;
    }
    if let Some(allowed) = params.allowed {
        assert_eq!(allowed.len(), z.len().div_ceil(32), "sample: words of the mask for {} tokens", z.len());
        for (adjusted, allowed) in adjusted.chunks_mut(32).zip(allowed) {
            for (_, z) in adjusted.iter_mut().enumerate().filter(|(bit, _)| allowed >> bit & 1 == 0) {
                *z = f32::NEG_INFINITY;
            }
        }
    }
}

kernel! {
    /// The first of the largest elements.
    fn argmax<L>(z: &[f32]) -> usize {
        let mut tops = L::splat(f32::NEG_INFINITY);
        for chunk in z.chunks(LANES) {
            tops = tops.max(L::load_tail(chunk, f32::NEG_INFINITY));
        }
        let top = tops.max_lane();
        z.iter().position(|&z| z == top).unwrap_or(0)
    }
}

/// Tokens of a row in descending order of probability, ties by ascending id; sorted only where one looks.
struct Ranking<'a> {
    z: &'a [f32],
    /// Probability relative to the likeliest token, `[vocab]`.
    e: super::Floats,
    /// Count and mass of each class: `e` with the same exponent and first four bits of mantissa.
    classes: Vec<(usize, f64)>,
    total: f64,
    /// Tokens that are neither banned nor excluded: the others come last.
    possible: usize,
}

/// Bits of an `f32` below its class.
const CLASS_SHIFT: u32 = 19;
/// Class of 1, the likeliest token's.
const CLASS_TOP: usize = (1.0f32.to_bits() >> CLASS_SHIFT) as usize;

fn class_of(e: f32) -> usize {
    ((e.to_bits() >> CLASS_SHIFT) as usize).min(CLASS_TOP)
}

/// The end of a prefix of the ranking.
#[derive(Clone, Copy)]
struct Prefix {
    /// Tokens in it.
    count: usize,
    /// Sum of their `e`.
    mass: f64,
    /// `e` of the last one; for a class not looked into, a lower bound.
    e: f32,
    /// The last one.
    token: usize,
}

impl<'a> Ranking<'a> {
    fn new(cpu: &Cpu, z: &'a [f32], inverse: f32, top: f32, possible: usize) -> Ranking<'a> {
        let mut e = cpu.scratch(z.len());
        exp_shifted(cpu.simd, z, inverse, top, &mut e);
        let mut classes = vec![(0, 0.0); CLASS_TOP + 1];
        for &e in e.iter() {
            let class = &mut classes[class_of(e)];
            class.0 += 1;
            class.1 += f64::from(e);
        }
        let total = classes.iter().rev().map(|class| class.1).sum();
        Ranking { z, e, classes, total, possible }
    }

    /// The token, and the share of the mass that the cuts kept.
    fn sample(&mut self, params: &SamplingParams<'_>) -> (usize, f32) {
        let possible = self.possible;
        let mut kept = Prefix { count: possible, mass: self.total, e: 0.0, token: 0 };
        if params.top_k > 0 && params.top_k < possible {
            kept = self.shortest(|prefix| prefix.count >= params.top_k).unwrap_or(kept);
        }
        if params.top_p < 1.0 {
            let wanted = f64::from(params.top_p) * kept.mass;
            let enough = self.shortest(|prefix| prefix.mass >= wanted);
            kept = enough.filter(|prefix| prefix.count < kept.count).unwrap_or(kept);
        }
        if params.min_p > 0.0 {
            let unlikely = self.shortest(|prefix| prefix.e < params.min_p);
            if let Some(first) = unlikely.filter(|prefix| prefix.count <= kept.count && prefix.count > 1) {
                kept = Prefix { count: first.count - 1, mass: first.mass - f64::from(first.e), ..first };
            }
        }
        let target = philox_uniform(params.seed, params.sequence, params.position) * kept.mass;
        let last = kept.count;
        let sampled = self.shortest(|prefix| prefix.mass > target || prefix.count >= last);
        let token = sampled.map_or(0, |prefix| prefix.token);
        (token, if kept.count == possible { 1.0 } else { (kept.mass / self.total) as f32 })
    }

    /// The shortest prefix for which `reached` holds, which must go on holding for longer ones.
    fn shortest(&self, reached: impl Fn(Prefix) -> bool) -> Option<Prefix> {
        let (mut count, mut mass) = (0, 0.0);
        for (class, &(tokens, class_mass)) in self.classes.iter().enumerate().rev().filter(|(_, class)| class.0 > 0) {
            let least = f32::from_bits((class as u32) << CLASS_SHIFT);
            if reached(Prefix { count: count + tokens, mass: mass + class_mass, e: least, token: 0 }) {
                let mut prefix = Prefix { count, mass, e: 0.0, token: 0 };
                for token in self.sorted(class) {
                    let e = self.e[token];
                    prefix = Prefix { count: prefix.count + 1, mass: prefix.mass + f64::from(e), e, token };
                    if reached(prefix) {
                        return Some(prefix);
                    }
                }
            }
            count += tokens;
            mass += class_mass;
        }
        None
    }

    /// The tokens of a class in order.
    fn sorted(&self, class: usize) -> Vec<usize> {
        let mut tokens: Vec<usize> = (0..self.z.len()).filter(|&token| class_of(self.e[token]) == class).collect();
        // Stable, and adding 0 makes the zeros equal.
        tokens.sort_by(|&a, &b| (self.z[b] + 0.0).total_cmp(&(self.z[a] + 0.0)));
        tokens
    }
}
