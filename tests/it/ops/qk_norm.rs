//! RMSNorm of each query and key head.

use thyme_engine::ops::attention::Heads;
use thyme_engine::ops::{Backend, Dtype, Tensor};

use super::{Case, Gradient, Input, ROWS, Random, all_backends, bits, check_backends, check_gradient, start};

/// Large enough to show, and to keep narrow heads smooth.
const EPSILON: f32 = 0.5;

const SHAPES: [(usize, usize, usize); 5] = [(1, 1, 1), (3, 1, 6), (4, 2, 16), (2, 2, 34), (6, 2, 80)];

/// With a gradient of the weights or without.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(27);
    let mut cases = vec![];
    for (tokens, (heads, kv_heads, head_dim)) in ROWS.into_iter().flat_map(|rows| SHAPES.map(|shape| (rows, shape))) {
        let heads = Heads { heads, kv_heads, head_dim };
        for trained in [true, false] {
            let normed = move |backend: &dyn Backend, x: &[Tensor]| {
                let mut qkv = backend.duplicate(&x[0]);
                let saved = backend.qk_norm_forward(&mut qkv, heads, &x[1], &x[2], EPSILON, true);
                (qkv, saved.expect("what is kept"))
            };
            cases.push(Case {
                name: format!("qk_norm {tokens} tokens, {heads:?}, trained {trained}"),
                inputs: vec![
                    Input::activation(&mut random, &[tokens, heads.qkv()]),
                    Input::parameter(&mut random, &[head_dim]),
                    Input::parameter(&mut random, &[head_dim]),
                ],
                chain: head_dim.max(tokens * heads.heads),
                differentiable: 1,
                forward: Box::new(move |backend, x| {
                    let (qkv, saved) = normed(backend, x);
                    vec![qkv, saved.x, saved.rstd]
                }),
                backward: Box::new(move |backend, x, dy| {
                    let (_, saved) = normed(backend, x);
                    let mut dqkv = backend.duplicate(&dy[0]);
                    let mut dw = trained.then(|| [1, 2].map(|w: usize| start(backend, x[w].shape(), Dtype::F32)));
                    let both = dw.as_mut().map(|[dwq, dwk]| (dwq, dwk));
                    backend.qk_norm_backward(&mut dqkv, heads, &x[1], &x[2], &saved, both);
                    let [dwq, dwk] = dw.map_or([None, None], |dw| dw.map(|dw| Some(Gradient::Added(dw))));
                    vec![Some(Gradient::New(dqkv)), dwq, dwk]
                }),
            });
        }
    }
    cases
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}

#[test]
fn what_is_kept_changes_no_bit_of_what_is_normalised() {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 16 };
    for backend in all_backends() {
        let backend = &*backend;
        let mut random = Random::new(28);
        let qkv = Input::activation(&mut random, &[70, heads.qkv()]).upload(backend);
        let [wq, wk] = [(); 2].map(|()| Input::parameter(&mut random, &[heads.head_dim]).upload(backend));
        let [kept, not_kept] = [true, false].map(|is_kept| {
            let mut qkv = backend.duplicate(&qkv);
            let saved = backend.qk_norm_forward(&mut qkv, heads, &wq, &wk, EPSILON, is_kept);
            assert_eq!(saved.is_some(), is_kept);
            bits(backend, &qkv)
        });
        assert_eq!(kept, not_kept, "{}", backend.name());
    }
}
