//! Sampling tokens on simt: the reference's tokens, and numbers as close as f32 has them.

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::kernels::common::log_sum_exp::SLICE;
use thyme_engine::ops::sample::{Sample, SampledToken, SamplingParams};
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, fast, tolerance};
use crate::ops::sample::{mask, some_bias};

const PLAIN: SamplingParams<'static> = SamplingParams {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seen: &[],
    bias: &[],
    allowed: None,
    seed: 1,
    sequence: 2,
    position: 3,
};

fn sample(
    backend: &(impl Buffers + Sample),
    logits: &[f32],
    row_params: &[SamplingParams<'_>],
    excluded: &[u32],
) -> Vec<SampledToken> {
    let shape = [row_params.len(), logits.len() / row_params.len().max(1)];
    backend.sample(&backend.upload(Host::F32(logits), &shape, Dtype::F32), row_params, excluded)
}

fn expect_the_references(cuda: &Cuda, logits: &[f32], row_params: &[SamplingParams<'_>], excluded: &[u32]) {
    let (found, expected) =
        (sample(cuda, logits, row_params, excluded), sample(&Reference, logits, row_params, excluded));
    // Its arithmetic is f32, as the CPU's is; log-probabilities reach -20.
    let allowed = 20.0 * tolerance("cpu", Dtype::F32, logits.len() / row_params.len());
    for ((found, expected), how) in found.iter().zip(&expected).zip(row_params) {
        assert_eq!(found.token, expected.token, "{found:?}, not {expected:?}: {how:?}");
        let numbers = |sampled: &SampledToken| {
            [
                sampled.logprob,
                sampled.logprob_at_temperature,
                sampled.processed_logprob,
                sampled.kept_mass,
                sampled.entropy,
            ]
        };
        for (found_number, number) in numbers(found).into_iter().zip(numbers(expected)).filter(|(a, b)| a != b) {
            let error = f64::from((found_number - number).abs());
            assert!(error <= allowed, "{found:?}, not {expected:?}: {how:?}");
        }
    }
}

#[test]
fn draws_are_the_references() {
    let (watched, cuda) = (checked(), fast());
    for (vocab, count) in [(1, 8), (2, 24), (7, 48), (52, 48), (1003, 48)] {
        let mut random = Random::new(vocab as u64);
        let logits: Vec<f32> = random.normals(count * vocab).iter().map(|z| 3.0 * *z as f32).collect();
        let seen: Vec<u32> = (0..5).map(|_| random.below(vocab) as u32).collect();
        let (bias, some) = (some_bias(&mut random, vocab), mask(vocab, |token| token % 5 != 0));
        let how = |position| SamplingParams {
            temperature: [0.0, 0.6, 1.0, 1.5][random.below(4)],
            top_k: [0, 1, 3, 40][random.below(4)],
            top_p: [1.0, 0.9, 0.3][random.below(3)],
            min_p: [0.0, 0.05, 0.2][random.below(3)],
            repetition_penalty: [1.0, 1.05, 1.3][random.below(3)],
            seen: &seen,
            bias: [&[], bias.as_slice()][random.below(2)],
            allowed: [None, Some(some.as_slice())][random.below(2)],
            seed: random.bits(),
            sequence: random.bits(),
            position,
        };
        let row_params: Vec<SamplingParams<'_>> = (0..count as u64).map(how).collect();
        let two = [vocab as u32 - 1, vocab as u32 / 2];
        for excluded in [&[], &two[..1], &two[..]].into_iter().filter(|excluded| excluded.len() + 2 < vocab.max(3)) {
            expect_the_references(&cuda, &logits, &row_params, excluded);
            expect_the_references(&watched, &logits[..4 * vocab], &row_params[..4], excluded);
        }
    }
    assert_eq!(sample(&cuda, &[], &[], &[]), []);
}

/// Ties within a key, equal zeros of both signs, logits of minus infinity, and tokens of no mass that top-k reaches.
#[test]
fn equals_go_by_id_and_what_is_impossible_is_not_sampled() {
    let cuda = fast();
    let mut random = Random::new(60);
    let mut logits: Vec<f32> = (0..300).map(|_| [1.0, 0.0, -0.0, 0.5][random.below(4)]).collect();
    logits[7] = f32::NEG_INFINITY;
    for how in [
        PLAIN,
        SamplingParams { temperature: 0.0, ..PLAIN },
        SamplingParams { top_k: 100, ..PLAIN },
        SamplingParams { top_p: 0.6, ..PLAIN },
        SamplingParams { temperature: 0.01, top_k: 150, ..PLAIN },
    ] {
        let row_params: Vec<SamplingParams<'_>> = (0..8).map(|position| SamplingParams { position, ..how }).collect();
        let found = sample(&cuda, &logits.repeat(8), &row_params, &[9]);
        for (found, expected) in found.iter().zip(sample(&Reference, &logits.repeat(8), &row_params, &[9])) {
            assert_eq!(found.token, expected.token, "{found:?}, not {expected:?}: {how:?}");
        }
    }
}

/// A row's neighbours that have a bias or a mask do not change its bits, nor does an empty mask's row.
#[test]
fn rows_without_bias_or_mask_keep_their_bits() {
    let (watched, mut random) = (checked(), Random::new(9));
    let logits: Vec<f32> = random.normals(3 * 70).iter().map(|z| 3.0 * *z as f32).collect();
    let (bias, none) = (some_bias(&mut random, 70), mask(70, |_| false));
    let plain = SamplingParams { temperature: 0.8, top_k: 30, top_p: 0.95, ..PLAIN };
    let alone = sample(&watched, &logits[70..140], &[plain], &[8, 60]);
    let beside = sample(
        &watched,
        &logits,
        &[
            SamplingParams { bias: &bias, seen: &[3], repetition_penalty: 1.2, ..plain },
            plain,
            SamplingParams { allowed: Some(&none), ..plain },
        ],
        &[8, 60],
    );
    assert_eq!(beside[1], alone[0]);
    assert!(beside[2].is_nothing() && !beside[0].is_nothing());
}

#[test]
fn a_row_of_nans_samples_a_token_of_the_vocabulary() {
    let cuda = fast();
    let sampled = sample(&cuda, &[f32::NAN; 18], &[PLAIN, SamplingParams { temperature: 0.0, ..PLAIN }], &[]);
    assert!(sampled.iter().all(|sampled| sampled.token < 9 && sampled.logprob.is_nan()), "{sampled:?}");
}

/// Vocabularies of one slice, of a token more or less, and of two; whole slices that have nothing to give.
#[test]
fn where_slices_end_draws_are_the_references() {
    let (watched, cuda) = (checked(), fast());
    for vocab in [SLICE - 1, SLICE, SLICE + 1, SLICE + 4, 2 * SLICE + 3] {
        let mut random = Random::new(vocab as u64);
        let mut logits: Vec<f32> = random.normals(12 * vocab).iter().map(|z| 3.0 * *z as f32).collect();
        // The last row has its only tokens on both sides of where a slice ends.
        let is_far = |id: usize| !(SLICE - 3..=SLICE).contains(&id);
        let last = &mut logits[11 * vocab..];
        last.iter_mut().enumerate().filter(|(id, _)| is_far(*id)).for_each(|(_, z)| *z = -1e30);
        let seen: Vec<u32> = (0..40).map(|_| random.below(vocab) as u32).collect();
        let (bias, some) = (some_bias(&mut random, vocab), mask(vocab, |token| token % 5 != 0));
        let how = |position: u64| SamplingParams {
            temperature: [0.0, 1.0, 0.8, 1.0][position as usize % 4],
            top_k: [0, 0, 50][position as usize % 3],
            top_p: [1.0, 0.9][position as usize % 2],
            min_p: if position == 5 { 0.02 } else { 0.0 },
            repetition_penalty: if position < 4 { 1.2 } else { 1.0 },
            seen: &seen,
            bias: if position == 6 || position == 8 { &bias } else { &[] },
            allowed: (position == 7 || position == 8).then_some(some.as_slice()),
            position,
            ..PLAIN
        };
        let row_params: Vec<SamplingParams<'_>> = (0..12).map(how).collect();
        for excluded in [&[][..], &[vocab as u32 - 1, SLICE as u32 - 2]] {
            expect_the_references(&cuda, &logits, &row_params, excluded);
        }
        expect_the_references(&watched, &logits[3 * vocab..9 * vocab], &row_params[3..9], &[vocab as u32 - 1]);
        let impossible: Vec<f32> =
            logits[11 * vocab..].iter().map(|&z| if z == -1e30 { f32::NEG_INFINITY } else { z }).collect();
        let rows = [impossible, logits[11 * vocab..].to_vec()].concat();
        let found = sample(&watched, &rows, &[row_params[11]; 2], &[]);
        assert_eq!(found[0], found[1], "slices of nothing but minus infinity have no share");
    }
}

/// More tokens in a class than are listed, nearly and entirely equal: the ranks are narrowed in steps.
#[test]
fn in_flat_rows_the_rank_decides_among_thousands() {
    let (watched, cuda) = (checked(), fast());
    let vocab = SLICE + 905;
    let mut random = Random::new(61);
    for spread in [0.0, 1e-6, 0.02, 0.2] {
        let logits: Vec<f32> = random.normals(vocab).iter().map(|z| 1.5 + (spread * z) as f32).collect();
        for (how, watches) in [
            (PLAIN, true),
            (SamplingParams { top_k: vocab - 700, ..PLAIN }, false),
            (SamplingParams { top_p: 0.4, temperature: 0.7, ..PLAIN }, true),
            (SamplingParams { min_p: 0.99, ..PLAIN }, false),
        ] {
            let row_params: Vec<SamplingParams<'_>> =
                (0..6).map(|position| SamplingParams { position, ..how }).collect();
            expect_the_references(&cuda, &logits.repeat(6), &row_params, &[17]);
            if watches {
                expect_the_references(&watched, &logits, &row_params[..1], &[17]);
            }
        }
    }
}

/// What a cut leaves out is never sampled, to the token: each of its draws is among the tokens that it keeps.
#[test]
fn no_draw_lies_behind_a_cut() {
    let cuda = fast();
    let vocab = 300;
    let logits: Vec<f32> = (0..vocab).map(|id| -(id as f32) * 1e-4).collect();
    for kept in [1, 2, 7, 150, 299] {
        let how = SamplingParams { top_k: kept, ..PLAIN };
        let row_params: Vec<SamplingParams<'_>> = (0..300).map(|position| SamplingParams { position, ..how }).collect();
        let found = sample(&cuda, &logits.repeat(300), &row_params, &[]);
        assert!(found.iter().all(|sampled| (sampled.token as usize) < kept), "top-k {kept}");
    }
}

/// A temperature near 0 is the largest logit, however large the quotient; one NaN makes numbers of none.
#[test]
fn tiny_temperatures_and_single_nans_sample_a_token_of_the_vocabulary() {
    let cuda = fast();
    let mut random = Random::new(62);
    let mut logits: Vec<f32> = random.normals(SLICE + 40).iter().map(|z| 9.0 * *z as f32).collect();
    logits[SLICE + 7] = 50.0;
    for offset in [0.0, -400.0] {
        let shifted: Vec<f32> = logits.iter().map(|z| z + offset).collect();
        for temperature in [1e-2, 1e-4, 1e-6, 1e-8] {
            let how = SamplingParams { temperature, ..PLAIN };
            let sampled = sample(&cuda, &shifted, &[how], &[3])[0];
            let numbers = [sampled.logprob_at_temperature, sampled.processed_logprob, sampled.kept_mass];
            assert_eq!((sampled.token as usize, numbers), (SLICE + 7, [0.0, 0.0, 1.0]), "{temperature}");
        }
    }
    logits[5] = f32::NAN;
    let sampled = sample(&cuda, &logits, &[PLAIN], &[])[0];
    assert!((sampled.token as usize) < logits.len() && sampled.logprob.is_nan(), "{sampled:?}");
}
