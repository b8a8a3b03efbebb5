//! Sums over all rows of something, a column each, as gradients of weights are: a row of partial sums for every few rows, and then these
//! in order. The order depends on the number of rows only.

use super::device::Argument;
use super::kernels::common::reduce::{COLUMN_SPAN, COLUMN_THREADS, PARTIAL_ROWS};
use super::{Cuda, size, tensor};
use crate::ops::{Dtype, Tensor};

impl Cuda {
    /// `total [columns] += Σ` over `rows` of what the kernel `<kernel>_partial` makes of `inputs`; the kernel `<kernel>` adds its
    /// partial sums. A thread of either has a column.
    #[track_caller]
    pub(super) fn add_column_sums(&self, kernel: &str, inputs: &[Argument<'_>], rows: usize, total: &Tensor) {
        self.add_sums(kernel, inputs, rows, total, COLUMN_THREADS);
    }

    /// The same of a kernel `<kernel>_partial` that reads vectors.
    #[track_caller]
    pub(super) fn add_vector_sums(&self, kernel: &str, inputs: &[Argument<'_>], rows: usize, total: &Tensor) {
        self.add_sums(kernel, inputs, rows, total, COLUMN_SPAN);
    }

    #[track_caller]
    fn add_sums(&self, kernel: &str, inputs: &[Argument<'_>], rows: usize, total: &Tensor, span: usize) {
        let (parts, columns) = (rows.div_ceil(PARTIAL_ROWS), total.len());
        let partial = self.empty(&[parts, columns], Dtype::F32);
        let mut arguments = inputs.to_vec();
        arguments.extend([tensor("partial", &partial), size(rows), size(columns)]);
        self.launch(&format!("{kernel}_partial"), [columns.div_ceil(span), parts, 1], &arguments);
        let arguments = [tensor("partial", &partial), tensor("total", total), size(parts), size(columns)];
        self.launch(kernel, [columns.div_ceil(COLUMN_THREADS), 1, 1], &arguments);
    }
}
