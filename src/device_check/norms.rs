//! Norms of rows and of heads.

use super::calls::{Calls, real, small};
use super::check::{Check, Sizes};
use super::values::{Values, start};
use crate::ops::attention::Heads;
use crate::ops::{Dtype, Tensor};

/// Large enough to show.
const EPSILON: f32 = 0.01;

/// The checks of these ops.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let mut checks = Vec::new();
    for size in [[1, 5], [7, 64], [33, 131], [70, 1032]] {
        checks.push(small("rms_norm", format!("{size:?}"), move |calls| rms_norm(calls, size)));
        checks.push(small("layer_norm", format!("{size:?}"), move |calls| layer_norm(calls, size)));
    }
    for (tokens, heads, kv_heads, head_dim) in [(1, 1, 1, 16), (7, 3, 1, 34), (33, 6, 2, 80), (70, 4, 2, 128)] {
        let heads = Heads { heads, kv_heads, head_dim };
        checks.push(small("qk_norm", of_heads(tokens, heads), move |calls| qk_norm(calls, tokens, heads)));
    }
    if sizes == Sizes::Real {
        checks.push(real("rms_norm", "[512, 3584]".to_owned(), |calls| rms_norm(calls, [512, 3584])));
        checks.push(real("layer_norm", "[1024, 1280]".to_owned(), |calls| layer_norm(calls, [1024, 1280])));
        let heads = Heads { heads: 32, kv_heads: 8, head_dim: 128 };
        checks.push(real("qk_norm", of_heads(512, heads), move |calls| qk_norm(calls, 512, heads)));
    }
    checks
}

/// Tokens and heads in words.
pub fn of_heads(tokens: usize, Heads { heads, kv_heads, head_dim }: Heads) -> String {
    format!("{tokens} tokens, {heads}/{kv_heads} heads of {head_dim}")
}

fn rms_norm(calls: &mut Calls<'_>, [rows, dim]: [usize; 2]) {
    let (backend, mut random) = (calls.backend, Values::new(3));
    let [x, add, dy, dresidual] = [(); 4].map(|()| random.activation(backend, &[rows, dim]));
    let w = random.vector(backend, dim);
    let chain = dim.max(rows);
    for add in [Some(&add), None] {
        let normed = calls.call("rms_norm_forward", |backend| backend.rms_norm_forward(&x, add, &w, EPSILON));
        let sum = normed.sum.as_ref();
        let results = [("y", Some(&normed.y)), ("rstd", Some(&normed.rstd)), ("sum", sum)];
        out_all(calls, &results, chain);
        let mut dw = start(backend, &[dim], Dtype::F32);
        let dh = calls.call("rms_norm_backward", |backend| {
            let (h, dresidual) = (sum.unwrap_or(&x), sum.map(|_| &dresidual));
            backend.rms_norm_backward(&dy, dresidual, h, &w, &normed.rstd, Some(&mut dw))
        });
        out_all(calls, &[("dh", Some(&dh)), ("dw", Some(&dw))], chain);
    }
}

fn layer_norm(calls: &mut Calls<'_>, [rows, dim]: [usize; 2]) {
    let (backend, mut random) = (calls.backend, Values::new(4));
    let [x, add, dy, dresidual] = [(); 4].map(|()| random.activation(backend, &[rows, dim]));
    let [w, b] = [(); 2].map(|()| random.vector(backend, dim));
    let chain = dim.max(rows);
    for add in [Some(&add), None] {
        let normed = calls.call("layer_norm_forward", |backend| backend.layer_norm_forward(&x, add, &w, &b, EPSILON));
        let (sum, mean, rstd) = (normed.sum.as_ref(), &normed.mean, &normed.rstd);
        let results = [("y", Some(&normed.y)), ("mean", Some(mean)), ("rstd", Some(rstd)), ("sum", sum)];
        out_all(calls, &results, chain);
        let [mut dw, mut db] = [(); 2].map(|()| start(backend, &[dim], Dtype::F32));
        let dh = calls.call("layer_norm_backward", |backend| {
            let (h, dresidual) = (sum.unwrap_or(&x), sum.map(|_| &dresidual));
            backend.layer_norm_backward(&dy, dresidual, h, &w, mean, rstd, Some((&mut dw, &mut db)))
        });
        out_all(calls, &[("dh", Some(&dh)), ("dw", Some(&dw)), ("db", Some(&db))], chain);
    }
}

fn qk_norm(calls: &mut Calls<'_>, tokens: usize, heads: Heads) {
    let (backend, mut random) = (calls.backend, Values::new(5));
    let mut qkv = random.activation(backend, &[tokens, heads.qkv()]);
    let mut dqkv = random.activation(backend, &[tokens, heads.qkv()]);
    let [wq, wk] = [(); 2].map(|()| random.vector(backend, heads.head_dim));
    let chain = heads.head_dim.max(tokens * heads.heads);
    let saved = calls.call("qk_norm_forward", |backend| {
        backend.qk_norm_forward(&mut qkv, heads, &wq, &wk, EPSILON, true).expect("what is kept")
    });
    out_all(calls, &[("qkv", Some(&qkv)), ("x", Some(&saved.x)), ("rstd", Some(&saved.rstd))], chain);
    let [mut dwq, mut dwk] = [(); 2].map(|()| start(backend, &[heads.head_dim], Dtype::F32));
    calls.call("qk_norm_backward", |backend| {
        backend.qk_norm_backward(&mut dqkv, heads, &wq, &wk, &saved, Some((&mut dwq, &mut dwk)));
    });
    out_all(calls, &[("dqkv", Some(&dqkv)), ("dwq", Some(&dwq)), ("dwk", Some(&dwk))], chain);
}

fn out_all(calls: &mut Calls<'_>, results: &[(&'static str, Option<&Tensor>)], chain: usize) {
    for (name, tensor) in results {
        if let Some(tensor) = tensor {
            calls.out(name, tensor, chain);
        }
    }
}
