//! RMSNorm of query and key heads on simt against the reference.

use thyme_engine::ops::Dtype;
use thyme_engine::ops::attention::Heads;
use thyme_engine::ops::qk_norm::QkNorm;
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, pair, values};

const EPSILON: f32 = 1e-5;

/// Heads of one vector a lane, of several, of single elements, and more of them than a block has.
const SHAPES: [(usize, usize, usize); 6] = [(4, 2, 2), (3, 1, 7), (2, 2, 128), (5, 1, 132), (1, 1, 300), (13, 5, 12)];

#[test]
fn qk_norm_agrees_with_the_reference_in_both_directions_and_leaves_values_alone() {
    let cuda = checked();
    let mut random = Random::new(60);
    // Sums over tokens run in parts of 64.
    for (tokens, (heads, kv_heads, dim)) in [0, 1, 65].into_iter().flat_map(|t| SHAPES.map(|shape| (t, shape))) {
        let heads = Heads { heads, kv_heads, head_dim: dim };
        let what = format!("qk_norm {tokens} tokens, {heads:?}");
        let shape = [tokens, heads.qkv()];
        let given = exact_in_bf16(&mut random, tokens * heads.qkv());
        let (mut qkv, mut rqkv) = pair(&cuda, &given, &shape, Dtype::Activation);
        let gradient = exact_in_bf16(&mut random, tokens * heads.qkv());
        let (mut dqkv, mut rdqkv) = pair(&cuda, &gradient, &shape, Dtype::Activation);
        let (wq, rwq) = pair(&cuda, &exact_in_bf16(&mut random, dim), &[dim], Dtype::Bf16);
        let (wk, rwk) = pair(&cuda, &exact_in_bf16(&mut random, dim), &[dim], Dtype::Bf16);
        let (mut dwq, mut rdwq) = pair(&cuda, &vec![0.25; dim], &[dim], Dtype::F32);
        let (mut dwk, mut rdwk) = pair(&cuda, &vec![0.25; dim], &[dim], Dtype::F32);

        let saved = cuda.qk_norm_forward(&mut qkv, heads, &wq, &wk, EPSILON, true).unwrap();
        let rsaved = Reference.qk_norm_forward(&mut rqkv, heads, &rwq, &rwk, EPSILON, true).unwrap();
        expect_close(&what, &cuda, &qkv, &rqkv, dim);
        expect_close(&format!("{what}: rstd"), &cuda, &saved.rstd, &rsaved.rstd, dim);
        assert_eq!(values(&cuda, &saved.x), values(&Reference, &rsaved.x), "{what}: x");

        cuda.qk_norm_backward(&mut dqkv, heads, &wq, &wk, &saved, Some((&mut dwq, &mut dwk)));
        Reference.qk_norm_backward(&mut rdqkv, heads, &rwq, &rwk, &rsaved, Some((&mut rdwq, &mut rdwk)));
        expect_close(&format!("{what}: dqkv"), &cuda, &dqkv, &rdqkv, dim);
        expect_close(&format!("{what}: dwq"), &cuda, &dwq, &rdwq, tokens * heads.heads);
        expect_close(&format!("{what}: dwk"), &cuda, &dwk, &rdwk, tokens * heads.kv_heads);

        for (tensor, before) in [(&qkv, &given), (&dqkv, &gradient)] {
            for (after, before) in values(&cuda, tensor).chunks(heads.qkv()).zip(before.chunks(heads.qkv())) {
                let of_values = (heads.heads + heads.kv_heads) * dim..;
                assert_eq!(after[of_values.clone()], before[of_values], "{what}: values");
            }
        }
    }
}
