//! SwiGLU: `kernels/swiglu.cu`.

use super::{Cuda, expect_shape, size, tensor};
use crate::ops::swiglu::Swiglu;
use crate::ops::{Dtype, Tensor};

impl Swiglu for Cuda {
    fn swiglu_forward(&self, gate_up: &Tensor) -> Tensor {
        let (rows, dim) = (gate_up.rows(), gate_up.cols() / 2);
        assert_eq!(gate_up.cols(), 2 * dim, "swiglu_forward gate_up: an even width, found {:?}", gate_up.shape());
        let y = self.empty(&[rows, dim], Dtype::Activation);
        self.launch_pieces("swiglu_forward", rows, dim, &[tensor("gate_up", gate_up), tensor("y", &y), size(dim)]);
        y
    }

    fn swiglu_backward(&self, dy: &Tensor, gate_up: &Tensor) -> Tensor {
        let (rows, dim) = (dy.rows(), dy.cols());
        expect_shape("swiglu_backward gate_up", gate_up, &[rows, 2 * dim]);
        let dgate_up = self.empty(gate_up.shape(), Dtype::Activation);
        let arguments = [tensor("dy", dy), tensor("gate_up", gate_up), tensor("dgate_up", &dgate_up), size(dim)];
        self.launch_pieces("swiglu_backward", rows, dim, &arguments);
        dgate_up
    }
}
