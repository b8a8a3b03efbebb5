//! RMSNorm with the residual addition: `kernels/rms_norm.cu`.

use super::device::Argument::F32;
use super::kernels::rms_norm as kernel;
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::rms_norm::{RmsNorm, RmsNormed};
use crate::ops::{Dtype, Tensor};

impl RmsNorm for Cuda {
    fn rms_norm_forward(&self, x: &Tensor, add: Option<&Tensor>, w: &Tensor, epsilon: f32) -> RmsNormed {
        let (rows, dim) = (x.rows(), x.cols());
        expect_shape("rms_norm_forward w", w, &[dim]);
        if let Some(add) = add {
            expect_shape("rms_norm_forward add", add, x.shape());
        }
        let sum = add.map(|_| self.empty(x.shape(), Dtype::Activation));
        let y = self.empty(x.shape(), Dtype::Activation);
        let rstd = self.empty(&[rows], Dtype::F32);
        self.launch_shared(
            "rms_norm_forward",
            [rows, 1, 1],
            kernel::forward_bytes(dim, add.is_some()),
            &[
                tensor("x", x),
                optional("add", add),
                tensor("w", w),
                optional("sum", sum.as_ref()),
                tensor("y", &y),
                tensor("rstd", &rstd),
                F32(epsilon),
                size(dim),
            ],
        );
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
        expect_shape("rms_norm_backward dy", dy, h.shape());
        expect_shape("rms_norm_backward w", w, &[dim]);
        expect_shape("rms_norm_backward rstd", rstd, &[rows]);
        let dh = self.empty(h.shape(), Dtype::Activation);
        self.launch_shared(
            "rms_norm_backward",
            [rows, 1, 1],
            kernel::backward_bytes(dim, dresidual.is_some()),
            &[
                tensor("dy", dy),
                optional("dresidual", dresidual),
                tensor("h", h),
                tensor("w", w),
                tensor("rstd", rstd),
                tensor("dh", &dh),
                size(dim),
            ],
        );
        if let Some(dw) = dw {
            expect_shape("rms_norm_backward dw", dw, &[dim]);
            let inputs = [tensor("dy", dy), tensor("h", h), tensor("rstd", rstd)];
            self.add_vector_sums("rms_norm_backward_weight", &inputs, rows, dw);
        }
        dh
    }
}
