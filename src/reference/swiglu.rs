//! SwiGLU: see [`crate::ops::swiglu`].

use super::buffers::{f64s, floats};
use super::{Reference, expect_shape};
use crate::ops::swiglu::Swiglu;
use crate::ops::{Dtype, Tensor};

impl Swiglu for Reference {
    fn swiglu_forward(&self, gate_up: &Tensor) -> Tensor {
        let (rows, width) = (gate_up.rows(), gate_up.cols() / 2);
        let mut y = Vec::with_capacity(rows * width);
        for row in f64s(gate_up).chunks_exact(2 * width) {
            let (gate, up) = row.split_at(width);
            y.extend(gate.iter().zip(up).map(|(g, up)| g * sigmoid(*g) * up));
        }
        floats(y, &[rows, width], Dtype::Activation)
    }

    fn swiglu_backward(&self, dy: &Tensor, gate_up: &Tensor) -> Tensor {
        let (rows, width) = (dy.rows(), dy.cols());
        expect_shape("swiglu_backward gate_up", gate_up, &[rows, 2 * width]);
        let mut dgate_up = Vec::with_capacity(gate_up.len());
        for (dy, row) in f64s(dy).chunks_exact(width).zip(f64s(gate_up).chunks_exact(2 * width)) {
            let (gate, up) = row.split_at(width);
            dgate_up.extend((0..width).map(|i| {
                let (g, s) = (gate[i], sigmoid(gate[i]));
                dy[i] * up[i] * s * (1.0 + g * (1.0 - s))
            }));
            dgate_up.extend((0..width).map(|i| dy[i] * gate[i] * sigmoid(gate[i])));
        }
        floats(dgate_up, gate_up.shape(), Dtype::Activation)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
