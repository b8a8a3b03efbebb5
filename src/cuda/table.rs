//! Tables of addresses, for one launch over many tensors: `kernels/common/table.cuh`.

use bytemuck::Pod;

use super::buffers::span;
use super::device::Reached;
use super::{Cuda, Dtype, Tensor};

/// Memory that a kernel finds in a table, and whether it writes there.
pub(super) fn reached<'a>(role: &'static str, of: &'a Tensor, is_written: bool) -> Reached<'a> {
    Reached { role, span: span(of), is_written }
}

/// Where a tensor lies, as a table has it; 0 where there is none.
pub(super) fn address(of: Option<&Tensor>) -> u64 {
    of.map_or(0, |of| span(of).address())
}

/// Counts the blocks of a launch: each entry's first, and all of them.
#[derive(Default)]
pub(super) struct BlockCount(usize);

impl BlockCount {
    /// The first of the `blocks` of the next entry.
    pub fn next(&mut self, blocks: usize) -> i32 {
        let first = i32::try_from(self.0).expect("fewer than 2³¹ blocks");
        self.0 += blocks;
        first
    }

    pub fn all(&self) -> usize {
        self.0
    }
}

impl Cuda {
    /// The rows in device memory.
    #[track_caller]
    pub(super) fn table<T: Pod>(&self, rows: &[T]) -> Tensor {
        let tensor = self.empty(&[size_of_val(rows)], Dtype::U8);
        self.fill(&tensor, bytemuck::cast_slice::<T, u8>(rows));
        tensor
    }
}
