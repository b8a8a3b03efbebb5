//! RMSNorm of each query and key head: see [`crate::ops::qk_norm`].

use super::buffers::{f64s, f64s_mut, floats};
use super::{Reference, expect_shape};
use crate::ops::attention::Heads;
use crate::ops::qk_norm::{QkNorm, QkNormSaved};
use crate::ops::{Dtype, Tensor};

impl QkNorm for Reference {
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
        let (mut saved, mut rstds) = (vec![], vec![]);
        for row in f64s_mut(qkv).chunks_exact_mut(heads.qkv()) {
            for (head, x) in row.chunks_exact_mut(dim).take(normed).enumerate() {
                let w = f64s(if head < heads.heads { wq } else { wk });
                let mean_square = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
                let rstd = 1.0 / (mean_square + f64::from(epsilon)).sqrt();
                saved.extend_from_slice(x);
                rstds.push(rstd);
                x.iter_mut().zip(w).for_each(|(x, w)| *x *= rstd * w);
            }
        }
        is_kept.then(|| QkNormSaved {
            x: floats(saved, &[tokens, normed * dim], Dtype::Activation),
            rstd: floats(rstds, &[tokens, normed], Dtype::F32),
        })
    }

    fn qk_norm_backward(
        &self,
        dqkv: &mut Tensor,
        heads: Heads,
        wq: &Tensor,
        wk: &Tensor,
        saved: &QkNormSaved,
        mut dw: Option<(&mut Tensor, &mut Tensor)>,
    ) {
        let (tokens, dim, normed) = (dqkv.rows(), heads.head_dim, heads.heads + heads.kv_heads);
        expect_shape("qk_norm_backward dqkv", dqkv, &[tokens, heads.qkv()]);
        expect_shape("qk_norm_backward x", &saved.x, &[tokens, normed * dim]);
        expect_shape("qk_norm_backward rstd", &saved.rstd, &[tokens, normed]);
        let mut saved = f64s(&saved.x).chunks_exact(dim).zip(f64s(&saved.rstd));
        for row in f64s_mut(dqkv).chunks_exact_mut(heads.qkv()) {
            for ((head, dy), (x, rstd)) in row.chunks_exact_mut(dim).take(normed).enumerate().zip(&mut saved) {
                let is_query = head < heads.heads;
                let w = f64s(if is_query { wq } else { wk });
                let mean = (0..dim).map(|i| dy[i] * w[i] * x[i]).sum::<f64>() / dim as f64;
                if let Some((dwq, dwk)) = &mut dw {
                    for (i, dw) in f64s_mut(if is_query { dwq } else { dwk }).iter_mut().enumerate() {
                        *dw += dy[i] * x[i] * rstd;
                    }
                }
                for i in 0..dim {
                    dy[i] = rstd * (dy[i] * w[i] - x[i] * rstd * rstd * mean);
                }
            }
        }
    }
}
