//! Whole pages copied within a layer.

use super::{Cpu, floats_mut};
use crate::ops::Tensor;
use crate::ops::copy_pages::CopyPages;

impl CopyPages for Cpu {
    fn copy_pages(&self, pages: &mut Tensor, pairs: &[(u32, u32)]) {
        let len = pages.cols();
        let pages = floats_mut(pages);
        for &(from, to) in pairs {
            let from = from as usize * len;
            pages.copy_within(from..from + len, to as usize * len);
        }
    }
}
