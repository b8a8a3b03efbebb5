//! Sum of squares: `kernels/grad_norm.cu`.

use super::device::Argument::I64;
use super::kernels::grad_norm::PART;
use super::{Cuda, size, tensor};
use crate::ops::grad_norm::GradNorm;
use crate::ops::{Buffers, Dtype, HostMut, Tensor};

impl GradNorm for Cuda {
    fn sum_of_squares(&self, x: &Tensor) -> f64 {
        let parts = x.len().div_ceil(PART);
        // An f64 is two words.
        let partial = self.empty(&[parts, 2], Dtype::I32);
        let total = self.empty(&[2], Dtype::I32);
        let arguments = [tensor("x", x), tensor("partial", &partial), I64(x.len() as i64)];
        self.launch("grad_norm_partial", [parts, 1, 1], &arguments);
        let arguments = [tensor("partial", &partial), tensor("total", &total), size(parts)];
        self.launch("grad_norm", [1, 1, 1], &arguments);
        let mut words = [0; 2];
        self.download(&total, HostMut::I32(&mut words));
        f64::from_bits(u64::from(words[1] as u32) << 32 | u64::from(words[0] as u32))
    }
}
