//! RMSNorm of query and key heads in place: a head's sums run in 16 lanes; the gradients of the weights in blocks of 64 tokens that add
//! up in order.

use half::bf16;

use super::simd::{LANES, kernel};
use super::tasks;
use super::{Cpu, bf16s, floats, floats_mut};
use crate::ops::attention::Heads;
use crate::ops::qk_norm::{QkNorm, QkNormSaved};
use crate::ops::{Dtype, Tensor};

/// Tokens of a task; fixed, so that sums over tokens do not depend on the number of threads.
const BLOCK: usize = 64;

impl QkNorm for Cpu {
    fn qk_norm_forward(
        &self,
        qkv: &mut Tensor,
        heads: Heads,
        wq: &Tensor,
        wk: &Tensor,
        epsilon: f32,
        is_kept: bool,
    ) -> Option<QkNormSaved> {
        let (rows, normed) = (qkv.rows(), heads.heads + heads.kv_heads);
        let width = normed * heads.head_dim;
        assert_eq!(qkv.cols(), heads.qkv(), "qk_norm: qkv {:?} for {heads:?}", qkv.shape());
        assert_eq!([wq.len(), wk.len()], [heads.head_dim; 2], "qk_norm: wq and wk for {heads:?}");
        let mut x = is_kept.then(|| self.empty(&[rows, width], Dtype::Activation));
        let mut rstd = self.empty(&[rows, normed], Dtype::F32);
        let mut kept = x.as_mut().map(|x| floats_mut(x).chunks_mut(BLOCK * width));
        let tasks =
            floats_mut(qkv).chunks_mut(BLOCK * heads.qkv()).zip(floats_mut(&mut rstd).chunks_mut(BLOCK * normed));
        let tasks = tasks.map(|(qkv, rstd)| (qkv, rstd, kept.as_mut().and_then(Iterator::next))).collect();
        tasks::for_each(tasks, 4 * rows * width, |(qkv, rstd, kept)| {
            if let Some(kept) = kept {
                let rows = qkv.chunks_exact(heads.qkv()).zip(kept.chunks_exact_mut(width));
                rows.for_each(|(row, kept)| kept.copy_from_slice(&row[..width]));
            }
            normalise(self.simd, qkv, heads, bf16s(wq), bf16s(wk), epsilon, rstd);
        });
        x.map(|x| QkNormSaved { x, rstd })
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
        let (rows, dim, normed) = (dqkv.rows(), heads.head_dim, heads.heads + heads.kv_heads);
        assert_eq!(dqkv.cols(), heads.qkv(), "qk_norm_backward: dqkv {:?} for {heads:?}", dqkv.shape());
        assert_eq!(saved.x.shape(), [rows, normed * dim], "qk_norm_backward: x");
        assert_eq!(saved.rstd.shape(), [rows, normed], "qk_norm_backward: rstd");
        let mut partials = dw.is_some().then(|| self.scratch(rows.div_ceil(BLOCK) * 2 * dim));
        let mut partial = partials.as_mut().map(|partials| partials.chunks_exact_mut(2 * dim));
        let tasks = floats_mut(dqkv).chunks_mut(BLOCK * heads.qkv());
        let tasks = tasks.map(|dqkv| (partial.as_mut().and_then(Iterator::next), dqkv)).enumerate().collect();
        tasks::for_each(
            tasks,
            8 * rows * normed * dim,
            |(block, (partial, dqkv)): (usize, (Option<&mut [f32]>, _))| {
                let x = &floats(&saved.x)[block * BLOCK * normed * dim..];
                let rstd = &floats(&saved.rstd)[block * BLOCK * normed..];
                if let Some(dw) = partial {
                    weight_rows(self.simd, dqkv, heads, x, rstd, dw);
                }
                backward_rows(self.simd, dqkv, heads, x, bf16s(wq), bf16s(wk), rstd);
            },
        );
        if let (Some((dwq, dwk)), Some(partials)) = (dw, partials) {
            for partial in partials.chunks_exact(2 * dim) {
                let (query, key) = partial.split_at(dim);
                super::rows::add_to(self.simd, floats_mut(dwq), query);
                super::rows::add_to(self.simd, floats_mut(dwk), key);
            }
        }
    }
}

kernel! {
    fn normalise<L>(qkv: &mut [f32], heads: Heads, wq: &[bf16], wk: &[bf16], epsilon: f32, rstd: &mut [f32]) {
        let dim = heads.head_dim;
        let rows = qkv.chunks_exact_mut(heads.qkv()).zip(rstd.chunks_exact_mut(heads.heads + heads.kv_heads));
        for (row, rstd) in rows {
            for ((head, x), rstd) in row.chunks_exact_mut(dim).enumerate().zip(rstd) {
                let w = if head < heads.heads { wq } else { wk };
                let mut squares = L::splat(0.0);
                for x in x.chunks(LANES) {
                    let x = L::load_tail(x, 0.0);
                    squares = x.mul_add(x, squares);
                }
                *rstd = 1.0 / (squares.sum() / dim as f32 + epsilon).sqrt();
                let scale = L::splat(*rstd);
                for (x, w) in x.chunks_mut(LANES).zip(w.chunks(LANES)) {
                    L::load_tail(x, 0.0).mul(scale).mul(L::load_bf16_tail(w)).store_tail(x);
                }
            }
        }
    }
}

kernel! {
    /// Overwrites `dw`, that of q and then that of k.
    fn weight_rows<L>(dqkv: &[f32], heads: Heads, x: &[f32], rstd: &[f32], dw: &mut [f32]) {
        let (dim, normed) = (heads.head_dim, heads.heads + heads.kv_heads);
        let (dwq, dwk) = dw.split_at_mut(dim);
        dwq.fill(0.0);
        dwk.fill(0.0);
        let rows = dqkv.chunks_exact(heads.qkv()).zip(x.chunks_exact(normed * dim)).zip(rstd.chunks_exact(normed));
        for ((row, x), rstd) in rows {
            let of_heads = row.chunks_exact(dim).zip(x.chunks_exact(dim)).zip(rstd).enumerate();
            for (head, ((dy, x), &rstd)) in of_heads {
                let dw = if head < heads.heads { &mut *dwq } else { &mut *dwk };
                let scale = L::splat(rstd);
                for ((dy, x), dw) in dy.chunks(LANES).zip(x.chunks(LANES)).zip(dw.chunks_mut(LANES)) {
                    let n = L::load_tail(x, 0.0).mul(scale);
                    L::load_tail(dy, 0.0).mul_add(n, L::load_tail(dw, 0.0)).store_tail(dw);
                }
            }
        }
    }
}

kernel! {
    fn backward_rows<L>(dqkv: &mut [f32], heads: Heads, x: &[f32], wq: &[bf16], wk: &[bf16], rstd: &[f32]) {
        let (dim, normed) = (heads.head_dim, heads.heads + heads.kv_heads);
        let rows = dqkv.chunks_exact_mut(heads.qkv()).zip(x.chunks_exact(normed * dim)).zip(rstd.chunks_exact(normed));
        for ((row, x), rstd) in rows {
            let of_heads = row.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).zip(rstd).enumerate();
            for (head, ((dy, x), &rstd)) in of_heads {
                let w = if head < heads.heads { wq } else { wk };
                let mut dot = L::splat(0.0);
                for ((dy, x), w) in dy.chunks(LANES).zip(x.chunks(LANES)).zip(w.chunks(LANES)) {
                    dot = L::load_tail(dy, 0.0).mul(L::load_bf16_tail(w)).mul_add(L::load_tail(x, 0.0), dot);
                }
                let scale = L::splat(rstd);
                let shift = L::splat(rstd * rstd * (dot.sum() / dim as f32));
                for ((dy, x), w) in dy.chunks_mut(LANES).zip(x.chunks(LANES)).zip(w.chunks(LANES)) {
                    let g = L::load_tail(dy, 0.0).mul(L::load_bf16_tail(w));
                    scale.mul(g.sub(L::load_tail(x, 0.0).mul(shift))).store_tail(dy);
                }
            }
        }
    }
}
