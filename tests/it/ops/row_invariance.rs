//! A row of a forward output depends, to the bit, on its own inputs and the parameters only; and the sampler and the trainer see the
//! same bits.

use thyme_engine::ops::attention::{Heads, Keys, Packed};
use thyme_engine::ops::gelu::GeluForm;
use thyme_engine::ops::sample::SamplingParams;
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

use super::{Input, Random, all_backends, bits};

const ROWS: usize = 37;

/// Asserts that each row of `forward`'s outputs has the same bits in calls of other rows. `forward` gets the rows that `x`
/// `[ROWS, width]` has in this call.
fn expect_invariant(op: &str, width: usize, forward: impl Fn(&dyn Backend, &Tensor) -> Vec<Tensor>) {
    for backend in all_backends() {
        let backend = &*backend;
        let x = Input::activation(&mut Random::new(21), &[ROWS, width]).upload(backend);
        let row_bits = |call: &[usize]| -> Vec<Vec<u32>> {
            let index: Vec<i32> = call.iter().map(|row| *row as i32).collect();
            let outputs = forward(backend, &backend.gather_rows(&x, &backend.indices(&index)));
            let of_row = |i: usize| {
                let of_output =
                    |y: &Tensor| bits(backend, y)[i * y.len() / call.len()..][..y.len() / call.len()].to_vec();
                outputs.iter().flat_map(of_output).collect()
            };
            (0..call.len()).map(of_row).collect()
        };
        let all = row_bits(&Vec::from_iter(0..ROWS));
        let mut random = Random::new(22);
        for count in [1, 2, 3, 4, 5, 8, 11, 16, 23] {
            let call = random.some(ROWS, count);
            for (row, found) in call.iter().zip(row_bits(&call)) {
                assert_eq!(found, all[*row], "{op} on {}: row {row} in a call of {count}", backend.name());
            }
        }
    }
}

fn parameter(backend: &dyn Backend, shape: &[usize]) -> Tensor {
    Input::parameter(&mut Random::new(23), shape).upload(backend)
}

#[test]
fn linear_is_row_invariant() {
    for (inner, columns) in [(37, 5), (64, 64), (300, 131)] {
        expect_invariant("linear", inner, |backend, x| {
            let (w, b) = (parameter(backend, &[columns, inner]), parameter(backend, &[columns]));
            vec![backend.linear_forward(x, &w, Some(&b)), backend.linear_forward(x, &w, None)]
        });
    }
}

#[test]
fn norms_are_row_invariant() {
    for dim in [5, 64, 131] {
        expect_invariant("rms_norm", dim, |backend, x| {
            let normed = backend.rms_norm_forward(x, Some(x), &parameter(backend, &[dim]), 1e-6);
            [normed.sum, Some(normed.y), Some(normed.rstd)].into_iter().flatten().collect()
        });
        expect_invariant("layer_norm", dim, |backend, x| {
            let (w, b) = (parameter(backend, &[dim]), parameter(backend, &[dim]));
            let normed = backend.layer_norm_forward(x, None, &w, &b, 1e-6);
            vec![normed.y, normed.mean, normed.rstd]
        });
    }
    for head_dim in [6, 16, 80] {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim };
        expect_invariant("qk_norm", heads.qkv(), |backend, x| {
            let mut qkv = backend.duplicate(x);
            let w = parameter(backend, &[head_dim]);
            let saved = backend.qk_norm_forward(&mut qkv, heads, &w, &w, 1e-6, true).unwrap();
            vec![qkv, saved.x, saved.rstd]
        });
    }
}

#[test]
fn activations_are_row_invariant() {
    for width in [2, 26, 130] {
        expect_invariant("swiglu", width, |backend, x| vec![backend.swiglu_forward(x)]);
        for form in [GeluForm::Erf, GeluForm::Quick] {
            expect_invariant("gelu", width, |backend, x| vec![backend.gelu_forward(x, form)]);
        }
    }
}

/// A row's inputs are its whole sequence here.
#[test]
fn attention_is_invariant_to_the_other_sequences() {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 16 };
    for backend in all_backends() {
        let qkv = Input::activation(&mut Random::new(24), &[60, heads.qkv()]).upload(&*backend);
        let run = |rows: std::ops::Range<i32>, bounds: &[i32], causal| {
            let bounds = backend.attention_bounds(bounds, heads);
            let x = backend.gather_rows(&qkv, &backend.indices(&Vec::from_iter(rows)));
            bits(
                &*backend,
                &backend
                    .attention_forward(&x, heads, Keys::Packed(Packed { bounds: &bounds, prefixes: None, causal }))
                    .0,
            )
        };
        for causal in [true, false] {
            let all = run(0..60, &[0, 3, 40, 60], causal);
            let width = heads.heads * heads.head_dim;
            for (start, end) in [(0, 3), (3, 40), (40, 60)] {
                let alone = run(start..end, &[0, end - start], causal);
                assert_eq!(alone, all[start as usize * width..end as usize * width], "{} {causal}", backend.name());
            }
        }
    }
}

/// What is stored when a token is sampled is what training computes for it, whatever the batch.
#[test]
fn the_sampler_and_token_logprob_give_the_same_bits() {
    let (dim, vocab) = (37, 131);
    let none: &[u32] = &[];
    for (temperature, excluded) in [(1.0, none), (0.7, none), (1.0, &[7, 130]), (0.7, &[90])] {
        expect_invariant("token_logprob", dim, |backend, h| {
            let w = parameter(backend, &[vocab, dim]);
            let logits = backend.logits(h, &w);
            let how = SamplingParams {
                temperature,
                top_k: 20,
                top_p: 0.9,
                min_p: 0.0,
                repetition_penalty: 1.1,
                seen: &[3, 5],
                bias: &[],
                allowed: None,
                seed: 7,
                sequence: 8,
                position: 9,
            };
            let sampled = backend.sample(&logits, &vec![how; h.rows()], excluded);
            let targets = backend.indices(&Vec::from_iter(sampled.iter().map(|sampled| sampled.token as i32)));
            let temperatures = backend.upload(Host::F32(&vec![temperature; h.rows()]), &[h.rows()], Dtype::F32);
            let found = backend.token_logprob_forward(h, &w, &targets, &temperatures, excluded);
            let pairs = backend.to_f32(&found.logprob).into_iter().zip(backend.to_f32(&found.logprob_at_temperature));
            for (sampled, (logprob, logprob_at_temperature)) in sampled.iter().zip(pairs) {
                assert_eq!(sampled.logprob.to_bits(), logprob.to_bits(), "{} logprob", backend.name());
                assert_eq!(
                    sampled.logprob_at_temperature.to_bits(),
                    logprob_at_temperature.to_bits(),
                    "{} logprob_at_temperature",
                    backend.name()
                );
            }
            vec![found.logprob, found.logprob_at_temperature, found.lse_raw, found.lse_at_temperature, found.entropy]
        });
    }
}

#[test]
fn patch_embed_is_row_invariant() {
    use thyme_engine::ops::patch_embed::PixelScale;
    let mut random = Random::new(25);
    let pixels: Vec<u8> = (0..ROWS * 27).map(|_| random.below(256) as u8).collect();
    let scale = PixelScale { mean: [0.5; 3], std: [0.25; 3] };
    for backend in all_backends() {
        let w = parameter(&*backend, &[11, 54]);
        let run = |pixels: &[u8]| {
            let x = backend.upload(Host::U8(pixels), &[pixels.len() / 27, 27], Dtype::U8);
            bits(&*backend, &backend.patch_embed_forward(&x, &scale, &w))
        };
        let all = run(&pixels);
        for (row, alone) in pixels.chunks_exact(27).enumerate() {
            assert_eq!(run(alone), all[row * 11..(row + 1) * 11], "{} row {row}", backend.name());
        }
    }
}
