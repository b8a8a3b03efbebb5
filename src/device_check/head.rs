//! The head: logits, log-probabilities of given tokens, and sampling.

use super::calls::{Calls, Within, real, small};
use super::check::{Check, Sizes};
use super::tolerance::tolerance;
use super::values::{Values, start};
use crate::ops::sample::{SampledToken, SamplingParams};
use crate::ops::token_logprob::EntropyGradient;
use crate::ops::{Dtype, Host};

const TEMPERATURES: [f32; 4] = [1.0, 0.5, 1.75, 0.875];

/// The checks of these ops.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let mut checks = Vec::new();
    // Several slices of the vocabulary among them.
    for size in [[1, 5, 1], [7, 3, 7], [9, 40, 132], [33, 40, 136], [66, 37, 131], [5, 16, 4200], [5, 19, 4201]] {
        checks.push(small("token_logprob", shape(size), move |calls| token_logprob(calls, size, true)));
    }
    for size in [[8, 2], [24, 7], [24, 52], [24, 1003], [24, 4200]] {
        checks.push(small("sample", format!("{size:?}"), move |calls| sample(calls, size)));
    }
    if sizes == Sizes::Real {
        let size = [1024, 64, 151_936];
        checks.push(real("token_logprob", shape(size), move |calls| token_logprob(calls, size, true)));
        let size = [8, 3584, 152_064];
        checks.push(real("token_logprob", shape(size), move |calls| token_logprob(calls, size, false)));
        checks.push(real("sample", "[16, 152064]".to_owned(), |calls| sample(calls, [16, 152_064])));
    }
    checks
}

fn shape([rows, dim, vocab]: [usize; 3]) -> String {
    format!("[{rows}, {dim}], vocabulary {vocab}")
}

fn token_logprob(calls: &mut Calls<'_>, [rows, dim, vocab]: [usize; 3], is_trained: bool) {
    let (backend, mut random) = (calls.backend, Values::new(14));
    let h = random.activation(backend, &[rows, dim]);
    let w = random.matrix(backend, [vocab, dim]);
    let dlogprob = random.tensor(backend, &[rows], Dtype::F32);
    let excluded: &[u32] = if vocab > 100 { &[0, 130] } else { &[] };
    let kept: Vec<i32> = (0..vocab as i32).filter(|id| !excluded.contains(&(*id as u32))).collect();
    let targets: Vec<i32> = random.indices(rows, kept.len()).into_iter().map(|place| kept[place as usize]).collect();
    let targets = backend.indices(&targets);
    let temperatures: Vec<f32> = TEMPERATURES.into_iter().cycle().take(rows).collect();
    let temperatures = backend.upload(Host::F32(&temperatures), &[rows], Dtype::F32);
    // The logits' roundings are twice as large after the lowest temperature.
    let chain = 3 * (dim + vocab).max(rows);
    if rows <= 100 {
        let z = calls.call("logits", |backend| backend.logits(&h, &w));
        calls.out("z", &z, dim);
    }
    let found = calls.call("token_logprob_forward", |backend| {
        backend.token_logprob_forward(&h, &w, &targets, &temperatures, excluded)
    });
    for (name, tensor) in [
        ("logprob", &found.logprob),
        ("logprob_at_temperature", &found.logprob_at_temperature),
        ("lse_raw", &found.lse_raw),
        ("lse_at_temperature", &found.lse_at_temperature),
        ("entropy", &found.entropy),
    ] {
        calls.out(name, tensor, chain);
    }
    if !is_trained {
        return;
    }
    let lse = &found.lse_at_temperature;
    let dentropy = random.tensor(backend, &[rows], Dtype::F32);
    let of_entropy = EntropyGradient { dentropy: &dentropy, entropy: &found.entropy, lse_raw: &found.lse_raw };
    for (of_entropy, [dh_name, dw_name]) in [(None, ["dh", "dw"]), (Some(of_entropy), ["dh of both", "dw of both"])] {
        let mut dw = start(backend, &[vocab, dim], Dtype::F32);
        let dh = calls.call("token_logprob_backward", |backend| {
            let (t, dw) = (&temperatures, Some(&mut dw));
            backend.token_logprob_backward(&dlogprob, &h, &w, &targets, t, lse, excluded, of_entropy, dw)
        });
        calls.out(dh_name, &dh, chain);
        calls.out(dw_name, &dw, chain);
    }
}

fn numbers(sampled: &SampledToken) -> [f32; 5] {
    let SampledToken { logprob, logprob_at_temperature, processed_logprob, kept_mass, entropy, .. } = *sampled;
    [logprob, logprob_at_temperature, processed_logprob, kept_mass, entropy]
}

/// Rows of every kind: with cuts, penalties, biases and masks, or without. Of a large vocabulary few tokens are likely, as in a model.
fn sample(calls: &mut Calls<'_>, [rows, vocab]: [usize; 2]) {
    let (backend, mut random) = (calls.backend, Values::new(15));
    let spread = if vocab > 10_000 { 8.0 } else { 3.0 };
    let logits: Vec<f32> = random.normals(rows * vocab).iter().map(|z| spread * z.to_f32()).collect();
    let seen: Vec<u32> = random.indices(5, vocab).into_iter().map(|id| id as u32).collect();
    let mut bias: Vec<(u32, f32)> = (0..vocab.min(4)).map(|id| (id as u32, id as f32 - 1.5)).collect();
    bias[0].1 = f32::NEG_INFINITY;
    let mut allowed = vec![0u32; vocab.div_ceil(32)];
    (0..vocab).filter(|token| token % 5 != 0).for_each(|token| allowed[token / 32] |= 1 << (token % 32));
    let row_params: Vec<SamplingParams<'_>> = (0..rows as u64)
        .map(|position| SamplingParams {
            temperature: [0.0, 0.6, 1.0, 1.5][random.below(4)],
            top_k: if vocab > 10_000 { 40 } else { [0, 1, 3, 40][random.below(4)] },
            top_p: [1.0, 0.9, 0.3][random.below(3)],
            min_p: [0.0, 0.05, 0.2][random.below(3)],
            repetition_penalty: [1.0, 1.05, 1.3][random.below(3)],
            seen: &seen,
            bias: [&[], bias.as_slice()][random.below(2)],
            allowed: [None, Some(allowed.as_slice())][random.below(2)],
            seed: random.bits(),
            sequence: random.bits(),
            position,
        })
        .collect();
    let excluded = [vocab as u32 - 1, vocab as u32 / 2];
    let excluded = if vocab > 4 { &excluded[..] } else { &[] };
    let logits = backend.upload(Host::F32(&logits), &[rows, vocab], Dtype::F32);
    let sampled = calls.call("sample", |backend| backend.sample(&logits, &row_params, excluded));
    // Where every token is banned, `token` says nothing.
    let token = |sampled: &SampledToken| if sampled.is_nothing() { -1.0 } else { f64::from(sampled.token) };
    calls.push("token", &logits, sampled.iter().map(token).collect(), Within::Exact);
    // The arithmetic is f32 everywhere; log-probabilities reach -20.
    let allowed = 20.0 * tolerance("cpu", Dtype::F32, vocab);
    let all = sampled.iter().flat_map(numbers).map(f64::from).collect();
    calls.push("numbers of a row", &logits, all, Within::Absolute(allowed));
}
