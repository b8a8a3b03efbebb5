//! Normal random numbers: `kernels/random_normal.cu`.

use super::device::Argument::{F32, I64};
use super::kernels::random_normal::THREADS;
use super::{Cuda, tensor};
use crate::ops::random_normal::RandomNormal;
use crate::ops::{Dtype, Tensor};

impl RandomNormal for Cuda {
    fn random_normal(&self, shape: &[usize], std: f32, seed: u64, stream: u64) -> Tensor {
        let y = self.empty(shape, Dtype::Bf16);
        let count = y.len();
        self.launch(
            "random_normal",
            [count.div_ceil(THREADS), 1, 1],
            &[tensor("y", &y), F32(std), I64(seed as i64), I64(stream as i64), I64(count as i64)],
        );
        y
    }
}
