//! LayerNorm with the residual addition: `kernels/layer_norm.cu`.

use super::device::Argument::F32;
use super::kernels::layer_norm as kernel;
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::layer_norm::{LayerNorm, LayerNormed};
use crate::ops::{Dtype, Tensor};

impl LayerNorm for Cuda {
    fn layer_norm_forward(
        &self,
        x: &Tensor,
        add: Option<&Tensor>,
        w: &Tensor,
        b: &Tensor,
        epsilon: f32,
    ) -> LayerNormed {
        let (rows, dim) = (x.rows(), x.cols());
        expect_shape("layer_norm_forward w", w, &[dim]);
        expect_shape("layer_norm_forward b", b, &[dim]);
        if let Some(add) = add {
            expect_shape("layer_norm_forward add", add, x.shape());
        }
        let sum = add.map(|_| self.empty(x.shape(), Dtype::Activation));
        let y = self.empty(x.shape(), Dtype::Activation);
        let mean = self.empty(&[rows], Dtype::F32);
        let rstd = self.empty(&[rows], Dtype::F32);
        self.launch_shared(
            "layer_norm_forward",
            [rows, 1, 1],
            kernel::forward_bytes(dim, add.is_some()),
            &[
                tensor("x", x),
                optional("add", add),
                tensor("w", w),
                tensor("b", b),
                optional("sum", sum.as_ref()),
                tensor("y", &y),
                tensor("mean", &mean),
                tensor("rstd", &rstd),
                F32(epsilon),
                size(dim),
            ],
        );
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
        expect_shape("layer_norm_backward dy", dy, h.shape());
        expect_shape("layer_norm_backward w", w, &[dim]);
        expect_shape("layer_norm_backward mean", mean, &[rows]);
        expect_shape("layer_norm_backward rstd", rstd, &[rows]);
        if let Some(dresidual) = dresidual {
            expect_shape("layer_norm_backward dresidual", dresidual, h.shape());
        }
        let dh = self.empty(h.shape(), Dtype::Activation);
        self.launch_shared(
            "layer_norm_backward",
            [rows, 1, 1],
            kernel::backward_bytes(dim, dresidual.is_some()),
            &[
                tensor("dy", dy),
                optional("dresidual", dresidual),
                tensor("h", h),
                tensor("w", w),
                tensor("mean", mean),
                tensor("rstd", rstd),
                tensor("dh", &dh),
                size(dim),
            ],
        );
        if let Some((dw, db)) = dwb {
            expect_shape("layer_norm_backward dw", dw, &[dim]);
            expect_shape("layer_norm_backward db", db, &[dim]);
            let inputs = [tensor("dy", dy), tensor("h", h), tensor("mean", mean), tensor("rstd", rstd)];
            self.add_vector_sums("layer_norm_backward_weight", &inputs, rows, dw);
            self.add_column_sums("linear_backward_bias", &inputs[..1], rows, db);
        }
        dh
    }
}
