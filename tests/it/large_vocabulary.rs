//! The CPU's sampler over thousands of tokens, which it ranks only where it must.

use thyme_engine::cpu::Cpu;
use thyme_engine::ops::sample::{SamplingParams, philox_uniform};
use thyme_engine::ops::{Backend, Dtype, Host};
use thyme_engine::reference::Reference;

/// Peaked, flat and tied logits over a large vocabulary.
fn rows(vocab: usize) -> Vec<Vec<f32>> {
    let uniform = |i: usize| philox_uniform(3, 0, i as u64) as f32;
    vec![
        (0..vocab).map(|i| 12.0 * uniform(i)).collect(),
        (0..vocab).map(|i| 0.01 * uniform(i)).collect(),
        (0..vocab).map(|i| (uniform(i) * 4.0).floor()).collect(),
        (0..vocab).map(|i| 300.0 * uniform(i)).collect(),
    ]
}

#[test]
fn lazy_ranking_samples_what_a_full_sort_samples() {
    let vocab = 5003;
    let plain = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seen: &[],
        bias: &[],
        allowed: None,
        seed: 11,
        sequence: 0,
        position: 0,
    };
    let cuts = [
        plain,
        SamplingParams { temperature: 0.0, ..plain },
        SamplingParams { temperature: 0.7, top_k: 40, ..plain },
        SamplingParams { top_p: 0.9, ..plain },
        SamplingParams { temperature: 1.5, min_p: 0.05, ..plain },
        SamplingParams {
            top_k: 300,
            top_p: 0.5,
            min_p: 0.01,
            repetition_penalty: 1.3,
            seen: &[3, 77, 3, 1000],
            ..plain
        },
    ];
    let on = |backend: &dyn Backend, z: &[f32], params: SamplingParams<'_>| {
        backend.sample(&backend.upload(Host::F32(z), &[1, vocab], Dtype::F32), &[params], &[])[0]
    };
    let (mut same, mut all) = (0, 0);
    for z in rows(vocab) {
        for (position, cut) in (0..20).flat_map(|position| cuts.map(|cut| (position, cut))) {
            let params = SamplingParams { position, ..cut };
            let (fast, exact) = (on(&Cpu::new(), &z, params), on(&Reference, &z, params));
            all += 1;
            // f32 probabilities may put u on the other side of a boundary between two of thousands of tokens.
            same += usize::from(fast.token == exact.token);
            assert!((fast.kept_mass - exact.kept_mass).abs() < 2e-3 && (fast.entropy - exact.entropy).abs() < 1e-4);
            if fast.token == exact.token {
                assert!(
                    (fast.processed_logprob - exact.processed_logprob).abs() < 2e-3,
                    "{fast:?} {exact:?} {params:?}"
                );
            }
        }
    }
    assert!(same * 100 >= all * 97, "{same} of {all} tokens agree with the reference");
}
