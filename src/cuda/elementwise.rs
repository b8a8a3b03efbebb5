//! Launches of kernels that go over rows piece by piece: `kernels/common/elementwise.cuh`.

use super::Cuda;
use super::device::Argument;
use super::kernels::common::elementwise::PIECE;

impl Cuda {
    /// Runs a kernel for each of `rows` rows of `dim` elements.
    #[track_caller]
    pub(super) fn launch_pieces(&self, kernel: &str, rows: usize, dim: usize, arguments: &[Argument<'_>]) {
        self.launch(kernel, [rows, dim.div_ceil(PIECE), 1], arguments);
    }
}
