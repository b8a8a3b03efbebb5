//! GELU in two forms: `kernels/gelu.cu`.

use super::device::Argument::{self, I32};
use super::{Cuda, expect_shape, size, tensor};
use crate::ops::gelu::{Gelu, GeluForm};
use crate::ops::{Dtype, Tensor};

impl Gelu for Cuda {
    fn gelu_forward(&self, x: &Tensor, form: GeluForm) -> Tensor {
        let y = self.empty(x.shape(), Dtype::Activation);
        let arguments = [tensor("x", x), tensor("y", &y), is_erf(form), size(x.cols())];
        self.launch_pieces("gelu_forward", x.rows(), x.cols(), &arguments);
        y
    }

    fn gelu_backward(&self, dy: &Tensor, x: &Tensor, form: GeluForm) -> Tensor {
        expect_shape("gelu_backward dy", dy, x.shape());
        let dx = self.empty(x.shape(), Dtype::Activation);
        let arguments = [tensor("dy", dy), tensor("x", x), tensor("dx", &dx), is_erf(form), size(x.cols())];
        self.launch_pieces("gelu_backward", x.rows(), x.cols(), &arguments);
        dx
    }
}

/// The form as kernels take it.
fn is_erf(form: GeluForm) -> Argument<'static> {
    I32(i32::from(form == GeluForm::Erf))
}
