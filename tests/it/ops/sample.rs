//! Sampling tokens.

use thyme_engine::ops::sample::{SampledToken, SamplingParams, philox_uniform};
use thyme_engine::ops::{Backend, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, all_backends, backends, tolerance};

/// The mask of some of `vocab` tokens.
pub fn mask(vocab: usize, allows: impl Fn(usize) -> bool) -> Vec<u32> {
    let mut words = vec![0; vocab.div_ceil(32)];
    (0..vocab).filter(|token| allows(*token)).for_each(|token| words[token / 32] |= 1 << (token % 32));
    words
}

/// A bias for some of `vocab` tokens: each once, some of them banned.
pub fn some_bias(random: &mut Random, vocab: usize) -> Vec<(u32, f32)> {
    let amounts = [-2.0, 3.0, 0.5, f32::NEG_INFINITY];
    (0..vocab).step_by(3).skip(1).map(|token| (token as u32, amounts[random.below(4)])).collect()
}

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
    backend: &dyn Backend,
    logits: &[f32],
    row_params: &[SamplingParams<'_>],
    excluded: &[u32],
) -> Vec<SampledToken> {
    let shape = [row_params.len(), logits.len() / row_params.len()];
    backend.sample(&backend.upload(Host::F32(logits), &shape, Dtype::F32), row_params, excluded)
}

fn sample_one(backend: &dyn Backend, logits: &[f32], how: SamplingParams<'_>) -> SampledToken {
    sample(backend, logits, &[how], &[])[0]
}

/// The test vectors that Random123 publishes for philox4x32-10: counter, key, first two words.
#[test]
fn philox_gives_the_published_numbers() {
    let known = [
        ([0, 0, 0, 0], [0, 0], [0x6627_e8d5, 0xe169_c58d]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e]),
        ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb]),
    ];
    let wide = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    for (counter, key, [first, second]) in known {
        let uniform = philox_uniform(wide(key[0], key[1]), wide(counter[2], counter[3]), wide(counter[0], counter[1]));
        assert_eq!(uniform, (wide(second, first) >> 11) as f64 / 2f64.powi(53));
    }
}

/// Probabilities 1/2, 1/4, 1/8, 1/8: every number can be said beforehand.
#[test]
fn cuts_keep_what_they_promise() {
    let logits = [8f32, 4.0, 2.0, 2.0].map(f32::ln);
    let cases = [
        ("none", PLAIN, 4, 1.0),
        ("top-k", SamplingParams { top_k: 2, ..PLAIN }, 2, 0.75),
        ("top-k through a tie keeps the lower id", SamplingParams { top_k: 3, ..PLAIN }, 3, 0.875),
        ("top-k above the vocabulary", SamplingParams { top_k: 9, ..PLAIN }, 4, 1.0),
        ("top-p", SamplingParams { top_p: 0.7, ..PLAIN }, 2, 0.75),
        ("top-p keeps one at least", SamplingParams { top_p: 0.01, ..PLAIN }, 1, 0.5),
        ("min-p", SamplingParams { min_p: 0.4, ..PLAIN }, 2, 0.75),
        ("top-p of what top-k left", SamplingParams { top_k: 2, top_p: 0.6, ..PLAIN }, 1, 0.5),
    ];
    for backend in all_backends() {
        for (name, how, count, kept) in &cases {
            for position in 0..200 {
                let sampled = sample_one(&*backend, &logits, SamplingParams { position, ..*how });
                let p = [0.5, 0.25, 0.125, 0.125][sampled.token as usize];
                assert!((sampled.token as usize) < *count, "{} {name}: {sampled:?}", backend.name());
                let expected = [f64::ln(p), f64::ln(p), f64::ln(p / kept), *kept, 1.75 * f64::ln(2.0)];
                let found = [
                    sampled.logprob,
                    sampled.logprob_at_temperature,
                    sampled.processed_logprob,
                    sampled.kept_mass,
                    sampled.entropy,
                ];
                for (found, expected) in found.into_iter().zip(expected) {
                    assert!((f64::from(found) - expected).abs() < 1e-6, "{} {name}: {sampled:?}", backend.name());
                }
            }
        }
    }
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    let logits = [1.0f32, 3.0, 2.0, -1.0, 2.5];
    let weights = logits.map(|z| (f64::from(z) / 0.8).exp());
    let total: f64 = weights.iter().sum();
    let row_params: Vec<SamplingParams> =
        (0..20_000).map(|position| SamplingParams { temperature: 0.8, position, ..PLAIN }).collect();
    for backend in all_backends() {
        let mut counts = [0.0; 5];
        for sampled in sample(&*backend, &logits.repeat(row_params.len()), &row_params, &[]) {
            counts[sampled.token as usize] += 1.0;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let p = weight / total;
            let deviation = (row_params.len() as f64 * p * (1.0 - p)).sqrt();
            assert!((count - row_params.len() as f64 * p).abs() < 4.0 * deviation, "{} {counts:?}", backend.name());
        }
    }
}

#[test]
fn the_sample_goes_down_the_probabilities_from_the_likeliest() {
    let logits = [2f32, 8.0, 4.0, 2.0].map(f32::ln); // of 16
    for backend in all_backends() {
        for position in 0..300 {
            let u = philox_uniform(PLAIN.seed, PLAIN.sequence, position);
            let expected = if u < 0.5 {
                1
            } else if u < 0.75 {
                2
            } else if u < 0.875 {
                0
            } else {
                3
            };
            let sampled = sample_one(&*backend, &logits, SamplingParams { position, ..PLAIN });
            assert_eq!(sampled.token, expected, "{} at u = {u}", backend.name());
        }
    }
}

#[test]
fn temperature_zero_takes_the_largest_and_of_equals_the_first() {
    for backend in all_backends() {
        let greedy = SamplingParams { temperature: 0.0, ..PLAIN };
        let sampled = sample_one(&*backend, &[1.0, 5.0, -2.0, 5.0], greedy);
        assert_eq!((sampled.token, sampled.processed_logprob, sampled.kept_mass), (1, 0.0, 1.0), "{}", backend.name());
        assert_eq!(sampled.logprob.to_bits(), sampled.logprob_at_temperature.to_bits(), "{}", backend.name());
        assert_eq!(sample_one(&*backend, &[-0.0, 0.0, -1.0], greedy).token, 0, "{}", backend.name());
    }
}

#[test]
fn the_penalty_shrinks_positive_and_grows_negative_logits_of_seen_tokens_once() {
    for backend in all_backends() {
        let penalised = |logits: &[f32], seen: &[u32]| {
            let how = SamplingParams { temperature: 0.0, repetition_penalty: 2.0, seen, ..PLAIN };
            sample_one(&*backend, logits, how).token
        };
        assert_eq!(penalised(&[5.0, 3.0, 2.0], &[0]), 1, "{}", backend.name());
        assert_eq!(penalised(&[5.0, 2.0, 1.0], &[0, 0, 0]), 0, "{}: repeats do not matter", backend.name());
        assert_eq!(penalised(&[-1.0, -1.5, -3.0], &[0]), 1, "{}", backend.name());
        let logits = [5.0, 3.0];
        let sampled = sample_one(&*backend, &logits, SamplingParams { repetition_penalty: 2.0, seen: &[0], ..PLAIN });
        let logprob = f64::from(logits[sampled.token as usize]) - (5f64.exp() + 3f64.exp()).ln();
        assert!(
            (f64::from(sampled.logprob) - logprob).abs() < 1e-6,
            "{}: logprob knows no penalty, {sampled:?}",
            backend.name()
        );
    }
}

/// Probabilities 1/2, 1/4, 1/8, 1/8 before bias and mask.
#[test]
fn bias_and_mask_change_what_is_sampled_from_and_nothing_else() {
    let logits = [8f32, 4.0, 2.0, 2.0].map(f32::ln);
    let (second, last) = ([(1, 2f32.ln())], [(3, f32::NEG_INFINITY)]);
    let (pair, odd) = (mask(4, |token| token < 2), mask(4, |token| token % 2 == 1));
    let banned = 0.0;
    let cases = [
        ("a bias", SamplingParams { bias: &second, ..PLAIN }, [0.4, 0.4, 0.1, 0.1], 1.0),
        ("a ban", SamplingParams { bias: &last, ..PLAIN }, [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0, banned], 1.0),
        ("a mask", SamplingParams { allowed: Some(&odd), ..PLAIN }, [banned, 2.0 / 3.0, banned, 1.0 / 3.0], 1.0),
        ("both", SamplingParams { bias: &second, allowed: Some(&pair), ..PLAIN }, [0.5, 0.5, banned, banned], 1.0),
        (
            "a mask and a top-k above it",
            SamplingParams { top_k: 3, allowed: Some(&odd), ..PLAIN },
            [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0],
            1.0,
        ),
        (
            "a cut of what a mask left",
            SamplingParams { top_k: 1, allowed: Some(&odd), ..PLAIN },
            [0.0, 1.0, 0.0, 0.0],
            2.0 / 3.0,
        ),
        (
            "a ban and min-p",
            SamplingParams { min_p: 0.3, bias: &[(0, f32::NEG_INFINITY)], ..PLAIN },
            [0.0, 0.5, 0.25, 0.25],
            1.0,
        ),
        (
            "a bias at half the temperature",
            SamplingParams { temperature: 0.5, bias: &second, ..PLAIN },
            [16.0, 16.0, 1.0, 1.0].map(|p| p / 34.0),
            1.0,
        ),
    ];
    for backend in all_backends() {
        for (name, how, probabilities, kept) in &cases {
            let mut sampled_ones = [false; 4];
            for position in 0..200 {
                let sampled = sample_one(&*backend, &logits, SamplingParams { position, ..*how });
                let p: f64 = probabilities[sampled.token as usize];
                sampled_ones[sampled.token as usize] = true;
                let expected = [p.ln(), *kept, 1.75 * f64::ln(2.0)];
                for (found, expected) in
                    [sampled.processed_logprob, sampled.kept_mass, sampled.entropy].into_iter().zip(expected)
                {
                    assert!((f64::from(found) - expected).abs() < 2e-6, "{} {name}: {sampled:?}", backend.name());
                }
                let logprob = f64::from(logits[sampled.token as usize]) - 16f64.ln();
                assert!((f64::from(sampled.logprob) - logprob).abs() < 2e-6, "{} {name}: {sampled:?}", backend.name());
            }
            assert_eq!(sampled_ones, probabilities.map(|p| p > 0.0), "{} {name}", backend.name());
        }
        let greedy = SamplingParams { temperature: 0.0, ..PLAIN };
        assert_eq!(
            sample_one(&*backend, &logits, SamplingParams { allowed: Some(&odd), ..greedy }).token,
            1,
            "{}",
            backend.name()
        );
        assert_eq!(
            sample_one(&*backend, &logits, SamplingParams { bias: &[(2, 9.0)], ..greedy }).token,
            2,
            "{}",
            backend.name()
        );
        let penalised = SamplingParams { repetition_penalty: 9.0, seen: &[0], bias: &[(0, 2.0)], ..greedy };
        assert_eq!(sample_one(&*backend, &logits, penalised).token, 0, "{}: the penalty comes first", backend.name());
    }
}

#[test]
fn where_all_tokens_are_banned_nothing_is_sampled() {
    let bans: Vec<(u32, f32)> = (0..50).map(|token| (token, f32::NEG_INFINITY)).collect();
    let (none, few) = (mask(50, |_| false), mask(50, |token| token < 20));
    let (z, rest) = ([1.0; 50], &bans[..20]);
    for backend in all_backends() {
        for temperature in [0.0, 0.7] {
            let plain = SamplingParams { temperature, top_k: 3, top_p: 0.9, ..PLAIN };
            for how in [
                SamplingParams { bias: &bans, ..plain },
                SamplingParams { allowed: Some(&none), ..plain },
                SamplingParams { allowed: Some(&few), bias: rest, ..plain },
            ] {
                let sampled = sample_one(&*backend, &z, how);
                assert!(
                    sampled.is_nothing() && sampled.processed_logprob == f32::NEG_INFINITY,
                    "{} {sampled:?}",
                    backend.name()
                );
                assert!((sampled.entropy - 50f32.ln()).abs() < 1e-5, "{} {sampled:?}", backend.name());
            }
            let how = SamplingParams { allowed: Some(&few), bias: &bans[..19], ..plain };
            assert_eq!(sample_one(&*backend, &z, how).token, 19, "{}", backend.name());
        }
    }
}

/// A row with two excluded tokens that have nearly all its mass, against the row that has only the others.
#[test]
fn what_is_sampled_and_its_probability_at_a_temperature_are_those_of_a_row_without_the_excluded_tokens() {
    let others = [8f32, 4.0, 2.0, 2.0, 1.0].map(f32::ln);
    let (kept_ids, excluded) = ([0u32, 2, 3, 5, 6], [4u32, 1]);
    let logits = [others[0], 30.0, others[1], others[2], 25.0, others[3], others[4]];
    let (bias, whole_bias) = ([(1, 1.5), (4, f32::NEG_INFINITY)], [(1, 100.0), (2, 1.5), (6, f32::NEG_INFINITY)]);
    let (some, whole_some) = (mask(5, |token| token != 1), mask(7, |token| token != 2));
    let cases = [
        ("plain", PLAIN, PLAIN),
        ("greedy", SamplingParams { temperature: 0.0, ..PLAIN }, SamplingParams { temperature: 0.0, ..PLAIN }),
        (
            "at a temperature",
            SamplingParams { temperature: 0.6, ..PLAIN },
            SamplingParams { temperature: 0.6, ..PLAIN },
        ),
        ("top-k", SamplingParams { top_k: 2, ..PLAIN }, SamplingParams { top_k: 2, ..PLAIN }),
        ("top-k of all", SamplingParams { top_k: 5, ..PLAIN }, SamplingParams { top_k: 5, ..PLAIN }),
        ("top-p", SamplingParams { top_p: 0.8, ..PLAIN }, SamplingParams { top_p: 0.8, ..PLAIN }),
        ("min-p", SamplingParams { min_p: 0.3, ..PLAIN }, SamplingParams { min_p: 0.3, ..PLAIN }),
        (
            "a penalty",
            SamplingParams { repetition_penalty: 3.0, seen: &[0], ..PLAIN },
            SamplingParams { repetition_penalty: 3.0, seen: &[0, 1, 4], ..PLAIN },
        ),
        ("a bias", SamplingParams { bias: &bias, ..PLAIN }, SamplingParams { bias: &whole_bias, ..PLAIN }),
        (
            "a mask",
            SamplingParams { allowed: Some(&some), ..PLAIN },
            SamplingParams { allowed: Some(&whole_some), ..PLAIN },
        ),
        (
            "a mask, greedily",
            SamplingParams { temperature: 0.0, allowed: Some(&some), ..PLAIN },
            SamplingParams { temperature: 0.0, allowed: Some(&whole_some), ..PLAIN },
        ),
    ];
    for backend in all_backends() {
        for (name, alone, whole) in &cases {
            for position in 0..100 {
                let expected = sample_one(&*backend, &others, SamplingParams { position, ..*alone });
                let found = sample(&*backend, &logits, &[SamplingParams { position, ..*whole }], &excluded)[0];
                assert_eq!(found.token, kept_ids[expected.token as usize], "{} {name}: {found:?}", backend.name());
                let pairs = [
                    (found.logprob_at_temperature, expected.logprob_at_temperature),
                    (found.processed_logprob, expected.processed_logprob),
                    (found.kept_mass, expected.kept_mass),
                ];
                let is_same = pairs.iter().all(|(found, expected)| (found - expected).abs() < 2e-6);
                assert!(is_same, "{} {name}: {found:?}, not {expected:?}", backend.name());
                let logprob = logits[found.token as usize] - (30.0 + (1.0 + (-5f32).exp()).ln());
                assert!(
                    (found.logprob - logprob).abs() < 1e-4,
                    "{} {name}: logprob is over all, {found:?}",
                    backend.name()
                );
                assert!(found.entropy < 0.05, "{} {name}: so is the entropy, {found:?}", backend.name());
            }
        }
        let asked = mask(7, |token| excluded.contains(&(token as u32)));
        for temperature in [0.0, 1.0] {
            let how = SamplingParams { temperature, allowed: Some(&asked), bias: &[(1, 100.0)], ..PLAIN };
            assert!(sample(&*backend, &logits, &[how], &excluded)[0].is_nothing(), "{}", backend.name());
        }
    }
}

#[test]
fn every_backend_agrees_with_the_reference() {
    for vocab in [1, 2, 7, 50, 1003] {
        let mut random = Random::new(vocab as u64);
        for position in 0..40 {
            let logits: Vec<f32> = random.normals(vocab).iter().map(|z| 3.0 * *z as f32).collect();
            let seen: Vec<u32> = random.indices(5, vocab).into_iter().map(|id| id as u32).collect();
            let (bias, remainder) = (some_bias(&mut random, vocab), random.below(3));
            let some = mask(vocab, |token| token % 3 != remainder);
            let how = SamplingParams {
                temperature: [0.0, 0.6, 1.0, 1.5][random.below(4)],
                top_k: [0, 1, 3, 40][random.below(4)],
                top_p: [1.0, 0.9, 0.3][random.below(3)],
                min_p: [0.0, 0.05, 0.2][random.below(3)],
                repetition_penalty: [1.0, 1.05, 1.3][random.below(3)],
                seen: &seen,
                bias: if random.below(2) == 0 { &[] } else { &bias },
                allowed: [None, Some(some.as_slice())][random.below(2)],
                seed: random.bits(),
                sequence: random.bits(),
                position,
            };
            let count = if vocab > 2 { random.below(3) } else { 0 };
            let excluded: Vec<u32> = random.some(vocab, count).into_iter().map(|id| id as u32).collect();
            let expected = sample(&Reference, &logits, &[how], &excluded)[0];
            let expected_numbers = [
                expected.logprob,
                expected.logprob_at_temperature,
                expected.processed_logprob,
                expected.kept_mass,
                expected.entropy,
            ];
            for backend in backends() {
                let sampled = sample(&*backend, &logits, &[how], &excluded)[0];
                assert_eq!(sampled.token, expected.token, "{} {how:?}", backend.name());
                let allowed = 20.0 * tolerance(backend.name(), Dtype::F32, vocab); // log-probabilities reach −20
                let numbers = [
                    sampled.logprob,
                    sampled.logprob_at_temperature,
                    sampled.processed_logprob,
                    sampled.kept_mass,
                    sampled.entropy,
                ];
                for (found, expected) in numbers.into_iter().zip(expected_numbers).filter(|(a, b)| a != b) {
                    let error = f64::from((found - expected).abs());
                    assert!(error <= allowed, "{} {how:?}: {sampled:?}, not {expected:?}", backend.name());
                }
            }
        }
    }
}
