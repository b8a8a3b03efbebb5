//! RMSNorm: a row's sums run in 16 lanes; the gradient of the weight in blocks of 64 rows that add up in order.

use half::bf16;

use super::simd::{LANES, kernel};
use super::tasks;
use super::{Cpu, bf16s, floats, floats_mut};
use crate::ops::rms_norm::{RmsNorm, RmsNormed};
use crate::ops::{Dtype, Tensor};

/// Rows of a task; fixed, so that sums over rows do not depend on the number of threads.
pub(super) const BLOCK: usize = 64;

impl RmsNorm for Cpu {
    fn rms_norm_forward(&self, x: &Tensor, add: Option<&Tensor>, w: &Tensor, epsilon: f32) -> RmsNormed {
        let (rows, dim) = (x.rows(), x.cols());
        assert_eq!(w.len(), dim, "rms_norm: w {:?} for x {:?}", w.shape(), x.shape());
        let w = bf16s(w);
        let mut sum = add.map(|add| {
            assert_eq!(add.shape(), x.shape(), "rms_norm: add");
            self.empty(x.shape(), Dtype::Activation)
        });
        let mut y = self.empty(x.shape(), Dtype::Activation);
        let mut rstd = self.empty(&[rows], Dtype::F32);
        let mut sums = sum.as_mut().map(|sum| floats_mut(sum).chunks_mut(BLOCK * dim));
        let tasks = floats_mut(&mut y).chunks_mut(BLOCK * dim).zip(floats_mut(&mut rstd).chunks_mut(BLOCK));
        let tasks: Vec<_> =
            tasks.map(|(y, rstd)| (sums.as_mut().and_then(Iterator::next), y, rstd)).enumerate().collect();
        tasks::for_each(tasks, 4 * rows * dim, |(block, (sum, y, rstd))| {
            let x = &floats(x)[block * BLOCK * dim..][..y.len()];
            let x = match (sum, add) {
                (Some(sum), Some(add)) => {
                    add_rows(self.simd, x, &floats(add)[block * BLOCK * dim..][..y.len()], sum);
                    sum
                }
                _ => x,
            };
            normalise(self.simd, x, w, epsilon, y, rstd);
        });
        RmsNormed { sum, y, rstd }
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        rstd: &Tensor,
        dw: Option<&mut Tensor>,
    ) -> Tensor {
        let (rows, dim) = (h.rows(), h.cols());
        assert_eq!(dy.shape(), h.shape(), "rms_norm_backward: dy");
        assert_eq!((w.len(), rstd.len()), (dim, rows), "rms_norm_backward: w and rstd for h {:?}", h.shape());
        let mut dh = self.empty(h.shape(), Dtype::Activation);
        let mut partials = dw.is_some().then(|| self.scratch(rows.div_ceil(BLOCK) * dim));
        let mut partial = partials.as_mut().map(|partials| partials.chunks_exact_mut(dim));
        let tasks = floats_mut(&mut dh).chunks_mut(BLOCK * dim);
        let tasks: Vec<_> = tasks.map(|dh| (partial.as_mut().and_then(Iterator::next), dh)).enumerate().collect();
        tasks::for_each(tasks, 8 * rows * dim, |(block, (partial, dh))| {
            let at = block * BLOCK * dim;
            let (dy, h) = (&floats(dy)[at..][..dh.len()], &floats(h)[at..][..dh.len()]);
            let rstd = &floats(rstd)[block * BLOCK..][..dh.len() / dim];
            match dresidual {
                Some(dresidual) => dh.copy_from_slice(&floats(dresidual)[at..][..dh.len()]),
                None => dh.fill(0.0),
            }
            backward_rows(self.simd, dy, h, bf16s(w), rstd, dh, partial);
        });
        if let (Some(dw), Some(partials)) = (dw, partials) {
            for partial in partials.chunks_exact(dim) {
                super::rows::add_to(self.simd, floats_mut(dw), partial);
            }
        }
        dh
    }
}

kernel! {
    /// `sum = x + y`.
    pub(super) fn add_rows<L>(x: &[f32], y: &[f32], sum: &mut [f32]) {
        for ((x, y), sum) in x.chunks(LANES).zip(y.chunks(LANES)).zip(sum.chunks_mut(LANES)) {
            L::load_tail(x, 0.0).add(L::load_tail(y, 0.0)).store_tail(sum);
        }
    }
}

kernel! {
    fn normalise<L>(h: &[f32], w: &[bf16], epsilon: f32, y: &mut [f32], rstd: &mut [f32]) {
        let dim = w.len();
        for ((h, y), rstd) in h.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).zip(rstd) {
            let mut squares = L::splat(0.0);
            for h in h.chunks(LANES) {
                let h = L::load_tail(h, 0.0);
                squares = h.mul_add(h, squares);
            }
            *rstd = 1.0 / (squares.sum() / dim as f32 + epsilon).sqrt();
            let scale = L::splat(*rstd);
            for ((h, y), w) in h.chunks(LANES).zip(y.chunks_mut(LANES)).zip(w.chunks(LANES)) {
                L::load_tail(h, 0.0).mul(scale).mul(L::load_bf16_tail(w)).store_tail(y);
            }
        }
    }
}

kernel! {
    /// Adds to `dh`; overwrites `dw`.
    fn backward_rows<L>(
        dy: &[f32],
        h: &[f32],
        w: &[bf16],
        rstd: &[f32],
        dh: &mut [f32],
        dw: Option<&mut [f32]>,
    ) {
        let dim = w.len();
        let rows = || dy.chunks_exact(dim).zip(h.chunks_exact(dim)).zip(rstd);
        for (((dy, h), &rstd), dh) in rows().zip(dh.chunks_exact_mut(dim)) {
            let vectors = || dy.chunks(LANES).zip(h.chunks(LANES)).zip(w.chunks(LANES));
            let mut dot = L::splat(0.0);
            for ((dy, h), w) in vectors() {
                dot = L::load_tail(dy, 0.0).mul(L::load_bf16_tail(w)).mul_add(L::load_tail(h, 0.0), dot);
            }
            let scale = L::splat(rstd);
            let shift = L::splat(rstd * rstd * (dot.sum() / dim as f32));
            for (((dy, h), w), dh) in vectors().zip(dh.chunks_mut(LANES)) {
                let g = L::load_tail(dy, 0.0).mul(L::load_bf16_tail(w));
                let g = g.sub(L::load_tail(h, 0.0).mul(shift));
                scale.mul_add(g, L::load_tail(dh, 0.0)).store_tail(dh);
            }
        }
        if let Some(dw) = dw {
            dw.fill(0.0);
            for ((dy, h), &rstd) in rows() {
                let scale = L::splat(rstd);
                for ((dy, h), dw) in dy.chunks(LANES).zip(h.chunks(LANES)).zip(dw.chunks_mut(LANES)) {
                    let n = L::load_tail(h, 0.0).mul(scale);
                    L::load_tail(dy, 0.0).mul_add(n, L::load_tail(dw, 0.0)).store_tail(dw);
                }
            }
        }
    }
}
