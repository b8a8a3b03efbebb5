//! SwiGLU, elementwise.

use super::simd::{LANES, Lanes, kernel};
use super::{Cpu, floats, floats_mut, for_row_blocks};
use crate::ops::swiglu::Swiglu;
use crate::ops::{Dtype, Tensor};

/// Rough operations per element: an exponential.
const COST: usize = 20;

impl Swiglu for Cpu {
    fn swiglu_forward(&self, gate_up: &Tensor) -> Tensor {
        let (rows, dim) = (gate_up.rows(), gate_up.cols() / 2);
        assert_eq!(gate_up.cols(), 2 * dim, "swiglu: gate_up {:?}", gate_up.shape());
        let mut y = self.empty(&[rows, dim], Dtype::Activation);
        for_row_blocks(floats_mut(&mut y), dim, COST * dim, |first, y| {
            forward(self.simd, &floats(gate_up)[first * 2 * dim..][..2 * y.len()], dim, y);
        });
        y
    }

    fn swiglu_backward(&self, dy: &Tensor, gate_up: &Tensor) -> Tensor {
        let dim = dy.cols();
        assert_eq!(gate_up.shape(), [dy.rows(), 2 * dim], "swiglu_backward: dy {:?}", dy.shape());
        let mut dgate_up = self.empty(gate_up.shape(), Dtype::Activation);
        for_row_blocks(floats_mut(&mut dgate_up), 2 * dim, COST * dim, |first, dgate_up| {
            let gate_up = &floats(gate_up)[first * 2 * dim..][..dgate_up.len()];
            backward(self.simd, &floats(dy)[first * dim..][..dgate_up.len() / 2], gate_up, dim, dgate_up);
        });
        dgate_up
    }
}

/// `1 + exp(−x)`.
#[inline(always)]
pub(super) fn one_plus_exp_minus<L: Lanes>(x: L) -> L {
    L::splat(0.0).sub(x).exp().add(L::splat(1.0))
}

kernel! {
    fn forward<L>(gate_up: &[f32], dim: usize, y: &mut [f32]) {
        for (gate_up, y) in gate_up.chunks_exact(2 * dim).zip(y.chunks_exact_mut(dim)) {
            let (gate, up) = gate_up.split_at(dim);
            for ((g, u), y) in gate.chunks(LANES).zip(up.chunks(LANES)).zip(y.chunks_mut(LANES)) {
                let g = L::load_tail(g, 0.0);
                g.div(one_plus_exp_minus(g)).mul(L::load_tail(u, 0.0)).store_tail(y);
            }
        }
    }
}

kernel! {
    fn backward<L>(dy: &[f32], gate_up: &[f32], dim: usize, dgate_up: &mut [f32]) {
        let rows = dy.chunks_exact(dim).zip(gate_up.chunks_exact(2 * dim));
        for ((dy, gate_up), dgate_up) in rows.zip(dgate_up.chunks_exact_mut(2 * dim)) {
            let (gate, up) = gate_up.split_at(dim);
            let (dgate, dup) = dgate_up.split_at_mut(dim);
            let inputs = dy.chunks(LANES).zip(gate.chunks(LANES)).zip(up.chunks(LANES));
            let outputs = dgate.chunks_mut(LANES).zip(dup.chunks_mut(LANES));
            for (((dy, g), u), (dg, du)) in inputs.zip(outputs) {
                let (dy, g, u) = (L::load_tail(dy, 0.0), L::load_tail(g, 0.0), L::load_tail(u, 0.0));
                let one = L::splat(1.0);
                let sigma = one.div(one_plus_exp_minus(g));
                let slope = sigma.mul(g.mul_add(one.sub(sigma), one));
                dy.mul(u).mul(slope).store_tail(dg);
                dy.mul(g.mul(sigma)).store_tail(du);
            }
        }
    }
}
