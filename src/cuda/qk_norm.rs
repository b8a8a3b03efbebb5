//! RMSNorm of query and key heads: `kernels/qk_norm.cu`.

use super::device::Argument::F32;
use super::kernels::common::reduce::COLUMN_THREADS;
use super::kernels::qk_norm::HEADS_PER_BLOCK;
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::attention::Heads;
use crate::ops::qk_norm::{QkNorm, QkNormSaved};
use crate::ops::{Buffers, Dtype, Tensor};

impl QkNorm for Cuda {
    fn qk_norm_forward(
        &self,
        qkv: &mut Tensor,
        heads: Heads,
        wq: &Tensor,
        wk: &Tensor,
        epsilon: f32,
        is_kept: bool,
    ) -> Option<QkNormSaved> {
        let (tokens, dim, normed) = (qkv.rows(), heads.head_dim, heads.heads + heads.kv_heads);
        expect_shape("qk_norm_forward qkv", qkv, &[tokens, heads.qkv()]);
        expect_shape("qk_norm_forward wq", wq, &[dim]);
        expect_shape("qk_norm_forward wk", wk, &[dim]);
        let saved = is_kept.then(|| QkNormSaved {
            x: self.empty(&[tokens, normed * dim], Dtype::Activation),
            rstd: self.empty(&[tokens, normed], Dtype::F32),
        });
        self.launch(
            "qk_norm_forward",
            [tokens, normed.div_ceil(HEADS_PER_BLOCK), 1],
            &[
                tensor("qkv", qkv),
                tensor("wq", wq),
                tensor("wk", wk),
                optional("x", saved.as_ref().map(|saved| &saved.x)),
                optional("rstd", saved.as_ref().map(|saved| &saved.rstd)),
                F32(epsilon),
                size(heads.heads),
                size(heads.kv_heads),
                size(dim),
            ],
        );
        saved
    }

    fn qk_norm_backward(
        &self,
        dqkv: &mut Tensor,
        heads: Heads,
        wq: &Tensor,
        wk: &Tensor,
        saved: &QkNormSaved,
        dw: Option<(&mut Tensor, &mut Tensor)>,
    ) {
        let (tokens, dim, normed) = (dqkv.rows(), heads.head_dim, heads.heads + heads.kv_heads);
        expect_shape("qk_norm_backward dqkv", dqkv, &[tokens, heads.qkv()]);
        expect_shape("qk_norm_backward x", &saved.x, &[tokens, normed * dim]);
        expect_shape("qk_norm_backward rstd", &saved.rstd, &[tokens, normed]);
        if let Some((dwq, dwk)) = dw {
            self.add_weight_gradients(dqkv, heads, saved, dwq, dwk);
        }
        self.launch(
            "qk_norm_backward",
            [tokens, normed.div_ceil(HEADS_PER_BLOCK), 1],
            &[
                tensor("dqkv", dqkv),
                tensor("x", &saved.x),
                tensor("wq", wq),
                tensor("wk", wk),
                tensor("rstd", &saved.rstd),
                size(heads.heads),
                size(heads.kv_heads),
                size(dim),
            ],
        );
    }
}

impl Cuda {
    /// Sums over tokens for each head, and of these over the heads that share a weight. `dqkv` is that of the normalised heads.
    fn add_weight_gradients(&self, dqkv: &Tensor, heads: Heads, saved: &QkNormSaved, dwq: &Tensor, dwk: &Tensor) {
        let (dim, normed) = (heads.head_dim, heads.heads + heads.kv_heads);
        expect_shape("qk_norm_backward dwq", dwq, &[dim]);
        expect_shape("qk_norm_backward dwk", dwk, &[dim]);
        let of_heads = self.zeros(&[normed * dim], Dtype::F32);
        let inputs = [tensor("dqkv", dqkv), tensor("x", &saved.x), tensor("rstd", &saved.rstd)];
        let inputs = [&inputs[..], &[size(heads.qkv()), size(dim)]].concat();
        self.add_vector_sums("qk_norm_backward_heads", &inputs, dqkv.rows(), &of_heads);
        self.launch(
            "qk_norm_backward_weight",
            [dim.div_ceil(COLUMN_THREADS), 1, 1],
            &[
                tensor("of_heads", &of_heads),
                tensor("dwq", dwq),
                tensor("dwk", dwk),
                size(heads.heads),
                size(heads.kv_heads),
                size(dim),
            ],
        );
    }
}
