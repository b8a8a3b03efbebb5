//! Drawing tokens.

use thyme_engine::ops::sample::{Draw, Drawn, philox_uniform};
use thyme_engine::ops::{Backend, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, all_backends, backends, tolerance};

const PLAIN: Draw<'static> = Draw {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seen: &[],
    seed: 1,
    sequence: 2,
    position: 3,
};

fn draw(backend: &dyn Backend, logits: &[f32], draws: &[Draw<'_>]) -> Vec<Drawn> {
    let shape = [draws.len(), logits.len() / draws.len()];
    backend.sample(&backend.upload(Host::F32(logits), &shape, Dtype::F32), draws)
}

fn draw_one(backend: &dyn Backend, logits: &[f32], how: Draw<'_>) -> Drawn {
    draw(backend, logits, &[how])[0]
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
        ("top-k", Draw { top_k: 2, ..PLAIN }, 2, 0.75),
        ("top-k through a tie keeps the lower id", Draw { top_k: 3, ..PLAIN }, 3, 0.875),
        ("top-k above the vocabulary", Draw { top_k: 9, ..PLAIN }, 4, 1.0),
        ("top-p", Draw { top_p: 0.7, ..PLAIN }, 2, 0.75),
        ("top-p keeps one at least", Draw { top_p: 0.01, ..PLAIN }, 1, 0.5),
        ("min-p", Draw { min_p: 0.4, ..PLAIN }, 2, 0.75),
        ("top-p of what top-k left", Draw { top_k: 2, top_p: 0.6, ..PLAIN }, 1, 0.5),
    ];
    for backend in all_backends() {
        for (name, how, count, kept) in &cases {
            for position in 0..200 {
                let drawn = draw_one(&*backend, &logits, Draw { position, ..*how });
                let p = [0.5, 0.25, 0.125, 0.125][drawn.token as usize];
                assert!((drawn.token as usize) < *count, "{} {name}: {drawn:?}", backend.name());
                let expected = [f64::ln(p), f64::ln(p), f64::ln(p / kept), *kept, 1.75 * f64::ln(2.0)];
                let found = [drawn.raw, drawn.tempered, drawn.processed, drawn.kept, drawn.entropy];
                for (found, expected) in found.into_iter().zip(expected) {
                    assert!((f64::from(found) - expected).abs() < 1e-6, "{} {name}: {drawn:?}", backend.name());
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
    let draws: Vec<Draw> = (0..20_000).map(|position| Draw { temperature: 0.8, position, ..PLAIN }).collect();
    for backend in all_backends() {
        let mut counts = [0.0; 5];
        for drawn in draw(&*backend, &logits.repeat(draws.len()), &draws) {
            counts[drawn.token as usize] += 1.0;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let p = weight / total;
            let deviation = (draws.len() as f64 * p * (1.0 - p)).sqrt();
            assert!((count - draws.len() as f64 * p).abs() < 4.0 * deviation, "{} {counts:?}", backend.name());
        }
    }
}

#[test]
fn the_draw_goes_down_the_probabilities_from_the_likeliest() {
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
            let drawn = draw_one(&*backend, &logits, Draw { position, ..PLAIN });
            assert_eq!(drawn.token, expected, "{} at u = {u}", backend.name());
        }
    }
}

#[test]
fn temperature_zero_takes_the_largest_and_of_equals_the_first() {
    for backend in all_backends() {
        let greedy = Draw { temperature: 0.0, ..PLAIN };
        let drawn = draw_one(&*backend, &[1.0, 5.0, -2.0, 5.0], greedy);
        assert_eq!((drawn.token, drawn.processed, drawn.kept), (1, 0.0, 1.0), "{}", backend.name());
        assert_eq!(drawn.raw.to_bits(), drawn.tempered.to_bits(), "{}", backend.name());
        assert_eq!(draw_one(&*backend, &[-0.0, 0.0, -1.0], greedy).token, 0, "{}", backend.name());
    }
}

#[test]
fn the_penalty_shrinks_positive_and_grows_negative_logits_of_seen_tokens_once() {
    for backend in all_backends() {
        let penalised = |logits: &[f32], seen: &[u32]| {
            let how = Draw { temperature: 0.0, repetition_penalty: 2.0, seen, ..PLAIN };
            draw_one(&*backend, logits, how).token
        };
        assert_eq!(penalised(&[5.0, 3.0, 2.0], &[0]), 1, "{}", backend.name());
        assert_eq!(penalised(&[5.0, 2.0, 1.0], &[0, 0, 0]), 0, "{}: repeats do not matter", backend.name());
        assert_eq!(penalised(&[-1.0, -1.5, -3.0], &[0]), 1, "{}", backend.name());
        let logits = [5.0, 3.0];
        let drawn = draw_one(&*backend, &logits, Draw { repetition_penalty: 2.0, seen: &[0], ..PLAIN });
        let raw = f64::from(logits[drawn.token as usize]) - (5f64.exp() + 3f64.exp()).ln();
        assert!((f64::from(drawn.raw) - raw).abs() < 1e-6, "{}: raw knows no penalty, {drawn:?}", backend.name());
    }
}

#[test]
fn every_backend_agrees_with_the_reference() {
    for vocab in [1, 2, 7, 50, 1003] {
        let mut random = Random::new(vocab as u64);
        for position in 0..40 {
            let logits: Vec<f32> = random.normals(vocab).iter().map(|z| 3.0 * *z as f32).collect();
            let seen: Vec<u32> = random.indices(5, vocab).into_iter().map(|id| id as u32).collect();
            let how = Draw {
                temperature: [0.0, 0.6, 1.0, 1.5][random.below(4)],
                top_k: [0, 1, 3, 40][random.below(4)],
                top_p: [1.0, 0.9, 0.3][random.below(3)],
                min_p: [0.0, 0.05, 0.2][random.below(3)],
                repetition_penalty: [1.0, 1.05, 1.3][random.below(3)],
                seen: &seen,
                seed: random.bits(),
                sequence: random.bits(),
                position,
            };
            let expected = draw_one(&Reference, &logits, how);
            let expected_numbers =
                [expected.raw, expected.tempered, expected.processed, expected.kept, expected.entropy];
            for backend in backends() {
                let drawn = draw_one(&*backend, &logits, how);
                assert_eq!(drawn.token, expected.token, "{} {how:?}", backend.name());
                let allowed = 20.0 * tolerance(backend.name(), Dtype::F32, vocab); // log-probabilities reach −20
                let numbers = [drawn.raw, drawn.tempered, drawn.processed, drawn.kept, drawn.entropy];
                for (found, expected) in numbers.into_iter().zip(expected_numbers) {
                    let error = f64::from((found - expected).abs());
                    assert!(error <= allowed, "{} {how:?}: {drawn:?}, not {expected:?}", backend.name());
                }
            }
        }
    }
}
