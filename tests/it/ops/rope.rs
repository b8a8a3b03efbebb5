//! Rotary positions.

use thyme_engine::ops::attention::Heads;
use thyme_engine::ops::{Backend, Dtype, Tensor};

use super::{Case, Gradient, Input, ROWS, Random, check_backends, check_gradient, upload};

/// Cosines, then sines, of random angles.
pub fn cos_sin(backend: &dyn Backend, tokens: usize, head_dim: usize) -> Tensor {
    let mut random = Random::new(9);
    let mut table = vec![];
    for _ in 0..tokens {
        let angles: Vec<f64> = (0..head_dim / 2).map(|_| random.uniform() * 100.0).collect();
        table.extend(angles.iter().map(|angle| f64::from(angle.cos() as f32)));
        table.extend(angles.iter().map(|angle| f64::from(angle.sin() as f32)));
    }
    upload(backend, &table, &[tokens, head_dim], Dtype::F32)
}

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(10);
    let shapes = [(4, 2, 2), (3, 1, 6), (2, 2, 32), (6, 2, 20)];
    let sizes = ROWS.into_iter().flat_map(|tokens| shapes.map(|shape| (tokens, shape)));
    let case = |(tokens, (heads, kv_heads, head_dim))| {
        let heads = Heads { heads, kv_heads, head_dim };
        Case {
            name: format!("rope {tokens} tokens, {heads:?}"),
            inputs: vec![Input::activation(&mut random, &[tokens, heads.qkv()])],
            chain: 2,
            differentiable: 1,
            forward: Box::new(move |backend, x| {
                let mut qkv = backend.duplicate(&x[0]);
                backend.rope_forward(&mut qkv, heads, &cos_sin(backend, tokens, head_dim), None);
                vec![qkv]
            }),
            backward: Box::new(move |backend, _, dy| {
                let mut dqkv = backend.duplicate(&dy[0]);
                backend.rope_backward(&mut dqkv, heads, &cos_sin(backend, tokens, head_dim));
                vec![Some(Gradient::New(dqkv))]
            }),
        }
    };
    sizes.map(case).collect()
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}
