//! The output of a matrix product, shared by the tasks that compute it.

/// The output, shared by tasks that each write elements of their own.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pointer: *mut f32,
    stride: usize,
}

// SAFETY: tasks address disjoint elements, and the output is borrowed for as long as they run.
unsafe impl Send for Tiles {}
// SAFETY: the same.
unsafe impl Sync for Tiles {}

impl Tiles {
    /// Of a matrix whose rows are `stride` apart.
    #[inline]
    pub(super) fn new(out: &mut [f32], stride: usize) -> Tiles {
        Tiles { pointer: out.as_mut_ptr(), stride }
    }

    /// Element `(row, col)`; both must lie in the output.
    #[inline(always)]
    pub(super) fn at(self, row: usize, col: usize) -> *mut f32 {
        self.pointer.wrapping_add(row * self.stride + col)
    }
}
