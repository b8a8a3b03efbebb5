//! Sums over all rows of something, a column each, as gradients of weights are: a row of partial sums for every few rows, and then these
//! in order. The order depends on the number of rows only.

use super::device::Argument;
use super::{Cuda, size, tensor};
use crate::ops::{Dtype, Tensor};

/// Rows of a partial sum: `PARTIAL_ROWS` of `kernels/common/reduce.cuh`.
const ROWS: usize = 64;
/// Threads of a block, a column each.
const THREADS: usize = 128;

impl Cuda {
    /// `total [columns] += Σ` over `rows` of what the kernel `<kernel>_partial` makes of `inputs`; the kernel `<kernel>` adds its
    /// partial sums.
    #[track_caller]
    pub(super) fn add_column_sums(&self, kernel: &str, inputs: &[Argument<'_>], rows: usize, total: &Tensor) {
        let (parts, columns) = (rows.div_ceil(ROWS), total.len());
        let partial = self.empty(&[parts, columns], Dtype::F32);
        let mut arguments = inputs.to_vec();
        arguments.extend([tensor("partial", &partial), size(rows), size(columns)]);
        self.launch(&format!("{kernel}_partial"), [columns.div_ceil(THREADS), parts, 1], THREADS, &arguments);
        let arguments = [tensor("partial", &partial), tensor("total", total), size(parts), size(columns)];
        self.launch(kernel, [columns.div_ceil(THREADS), 1, 1], THREADS, &arguments);
    }
}
