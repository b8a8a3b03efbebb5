//! Copies whole pages of keys and values: copy-on-write.

use super::Tensor;

/// Page copies within one layer.
pub trait CopyPages {
    /// Page `to` becomes a copy of page `from`, for each pair in order; pages as [`super::attention::Attention::attention_pages`] made.
    fn copy_pages(&self, pages: &mut Tensor, pairs: &[(u32, u32)]);
}
