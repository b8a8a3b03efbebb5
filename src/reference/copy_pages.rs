//! Page copies: see [`crate::ops::copy_pages`].

use super::Reference;
use super::buffers::f64s_mut;
use crate::ops::Tensor;
use crate::ops::copy_pages::CopyPages;

impl CopyPages for Reference {
    fn copy_pages(&self, pages: &mut Tensor, pairs: &[(u32, u32)]) {
        let width = pages.cols();
        for (from, to) in pairs {
            let from = *from as usize * width;
            f64s_mut(pages).copy_within(from..from + width, *to as usize * width);
        }
    }
}
