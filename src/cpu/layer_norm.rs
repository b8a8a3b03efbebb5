//! LayerNorm: mean, then variance around it, in 16 lanes; gradients of the parameters as in [`super::rms_norm`].

use half::bf16;

use super::rms_norm::{BLOCK, add_rows};
use super::rows::add_to;
use super::simd::{LANES, Lanes, kernel};
use super::tasks;
use super::{Cpu, bf16s, floats, floats_mut};
use crate::ops::layer_norm::{LayerNorm, LayerNormed};
use crate::ops::{Dtype, Tensor};

impl LayerNorm for Cpu {
    fn layer_norm_forward(
        &self,
        x: &Tensor,
        add: Option<&Tensor>,
        w: &Tensor,
        b: &Tensor,
        epsilon: f32,
    ) -> LayerNormed {
        let (rows, dim) = (x.rows(), x.cols());
        assert_eq!((w.len(), b.len()), (dim, dim), "layer_norm: w and b for x {:?}", x.shape());
        let mut sum = add.map(|add| {
            assert_eq!(add.shape(), x.shape(), "layer_norm: add");
            self.empty(x.shape(), Dtype::Activation)
        });
        let mut y = self.empty(x.shape(), Dtype::Activation);
        let mut mean = self.empty(&[rows], Dtype::F32);
        let mut rstd = self.empty(&[rows], Dtype::F32);
        let mut sums = sum.as_mut().map(|sum| floats_mut(sum).chunks_mut(BLOCK * dim));
        let statistics = floats_mut(&mut mean).chunks_mut(BLOCK).zip(floats_mut(&mut rstd).chunks_mut(BLOCK));
        let tasks = floats_mut(&mut y).chunks_mut(BLOCK * dim).zip(statistics);
        let tasks: Vec<_> = tasks.map(|(y, s)| (sums.as_mut().and_then(Iterator::next), y, s)).enumerate().collect();
        tasks::for_each(tasks, 5 * rows * dim, |(block, (sum, y, (mean, rstd)))| {
            let x = &floats(x)[block * BLOCK * dim..][..y.len()];
            let x = match (sum, add) {
                (Some(sum), Some(add)) => {
                    add_rows(self.simd, x, &floats(add)[block * BLOCK * dim..][..y.len()], sum);
                    sum
                }
                _ => x,
            };
            normalise(self.simd, x, bf16s(w), bf16s(b), epsilon, y, mean, rstd);
        });
        LayerNormed { sum, y, mean, rstd }
    }

    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        mean: &Tensor,
        rstd: &Tensor,
        dwb: Option<(&mut Tensor, &mut Tensor)>,
    ) -> Tensor {
        let (rows, dim) = (h.rows(), h.cols());
        assert_eq!(dy.shape(), h.shape(), "layer_norm_backward: dy");
        assert_eq!(
            (w.len(), mean.len(), rstd.len()),
            (dim, rows, rows),
            "layer_norm_backward: w, mean and rstd for h {:?}",
            h.shape()
        );
        let mut dh = self.empty(h.shape(), Dtype::Activation);
        let mut partials = dwb.is_some().then(|| self.scratch(rows.div_ceil(BLOCK) * 2 * dim));
        let mut partial = partials.as_mut().map(|partials| partials.chunks_exact_mut(2 * dim));
        let tasks = floats_mut(&mut dh).chunks_mut(BLOCK * dim);
        let tasks: Vec<_> = tasks.map(|dh| (partial.as_mut().and_then(Iterator::next), dh)).enumerate().collect();
        tasks::for_each(tasks, 10 * rows * dim, |(block, (partial, dh))| {
            let at = block * BLOCK * dim;
            let (dy, h) = (&floats(dy)[at..][..dh.len()], &floats(h)[at..][..dh.len()]);
            let mean = &floats(mean)[block * BLOCK..][..dh.len() / dim];
            let rstd = &floats(rstd)[block * BLOCK..][..dh.len() / dim];
            match dresidual {
                Some(dresidual) => dh.copy_from_slice(&floats(dresidual)[at..][..dh.len()]),
                None => dh.fill(0.0),
            }
            backward_rows(self.simd, dy, h, bf16s(w), mean, rstd, dh, partial);
        });
        if let (Some((dw, db)), Some(partials)) = (dwb, partials) {
            for partial in partials.chunks_exact(2 * dim) {
                let (partial_w, partial_b) = partial.split_at(dim);
                add_to(self.simd, floats_mut(dw), partial_w);
                add_to(self.simd, floats_mut(db), partial_b);
            }
        }
        dh
    }
}

/// `h − mean` of one vector, 0 in the lanes past its end.
#[inline(always)]
fn centre<L: Lanes>(h: &[f32], mean: f32) -> L {
    L::load_tail(h, mean).sub(L::splat(mean))
}

kernel! {
    fn normalise<L>(
        h: &[f32],
        w: &[bf16],
        b: &[bf16],
        epsilon: f32,
        y: &mut [f32],
        mean: &mut [f32],
        rstd: &mut [f32],
    ) {
        let dim = w.len();
        let rows = h.chunks_exact(dim).zip(y.chunks_exact_mut(dim));
        for ((h, y), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
            let mut sum = L::splat(0.0);
            for h in h.chunks(LANES) {
                sum = sum.add(L::load_tail(h, 0.0));
            }
            *mean = sum.sum() / dim as f32;
            let mut squares = L::splat(0.0);
            for h in h.chunks(LANES) {
                let h: L = centre(h, *mean);
                squares = h.mul_add(h, squares);
            }
            *rstd = 1.0 / (squares.sum() / dim as f32 + epsilon).sqrt();
            let scale = L::splat(*rstd);
            let parameters = w.chunks(LANES).zip(b.chunks(LANES));
            for ((h, y), (w, b)) in h.chunks(LANES).zip(y.chunks_mut(LANES)).zip(parameters) {
                let n = centre::<L>(h, *mean).mul(scale);
                n.mul_add(L::load_bf16_tail(w), L::load_bf16_tail(b)).store_tail(y);
            }
        }
    }
}

kernel! {
    /// Adds to `dh`; overwrites `dwb`: dw, then db.
    fn backward_rows<L>(
        dy: &[f32],
        h: &[f32],
        w: &[bf16],
        mean: &[f32],
        rstd: &[f32],
        dh: &mut [f32],
        dwb: Option<&mut [f32]>,
    ) {
        let dim = w.len();
        let rows = || dy.chunks_exact(dim).zip(h.chunks_exact(dim)).zip(mean.iter().zip(rstd));
        for (((dy, h), (&mean, &rstd)), dh) in rows().zip(dh.chunks_exact_mut(dim)) {
            let vectors = || dy.chunks(LANES).zip(h.chunks(LANES)).zip(w.chunks(LANES));
            let scale = L::splat(rstd);
            let (mut sum, mut dot) = (L::splat(0.0), L::splat(0.0));
            for ((dy, h), w) in vectors() {
                let g = L::load_tail(dy, 0.0).mul(L::load_bf16_tail(w));
                sum = sum.add(g);
                dot = g.mul_add(centre::<L>(h, mean).mul(scale), dot);
            }
            let (sum, dot) = (L::splat(sum.sum() / dim as f32), L::splat(dot.sum() / dim as f32));
            for (((dy, h), w), dh) in vectors().zip(dh.chunks_mut(LANES)) {
                let g = L::load_tail(dy, 0.0).mul(L::load_bf16_tail(w));
                let n = centre::<L>(h, mean).mul(scale);
                let g = g.sub(sum).sub(n.mul(dot));
                scale.mul_add(g, L::load_tail(dh, 0.0)).store_tail(dh);
            }
        }
        if let Some(dwb) = dwb {
            dwb.fill(0.0);
            let (dw, db) = dwb.split_at_mut(dim);
            for ((dy, h), (&mean, &rstd)) in rows() {
                let scale = L::splat(rstd);
                let gradients = dw.chunks_mut(LANES).zip(db.chunks_mut(LANES));
                for ((dy, h), (dw, db)) in dy.chunks(LANES).zip(h.chunks(LANES)).zip(gradients) {
                    let dy = L::load_tail(dy, 0.0);
                    let n = centre::<L>(h, mean).mul(scale);
                    dy.mul_add(n, L::load_tail(dw, 0.0)).store_tail(dw);
                    dy.add(L::load_tail(db, 0.0)).store_tail(db);
                }
            }
        }
    }
}
