//! Page copies: `kernels/copy_pages.cu`.

use super::kernels::common::types::VECTOR;
use super::kernels::copy_pages::THREADS;
use super::{Cuda, size, tensor};
use crate::ops::copy_pages::CopyPages;
use crate::ops::{Buffers, Dtype, Host, Tensor};

impl CopyPages for Cuda {
    fn copy_pages(&self, pages: &mut Tensor, pairs: &[(u32, u32)]) {
        let (count, width) = (pages.rows(), pages.cols());
        assert_eq!(width % VECTOR, 0, "copy_pages: pages {pages:?}");
        let pairs: Vec<i32> = pairs
            .iter()
            .flat_map(|&(from, to)| {
                assert!(from.max(to) < count as u32, "copy_pages: {from} to {to} of {count} pages");
                [from as i32, to as i32]
            })
            .collect();
        if pairs.is_empty() {
            return;
        }
        let vectors = width / VECTOR;
        let uploaded = self.upload(Host::I32(&pairs), &[pairs.len() / 2, 2], Dtype::I32);
        let arguments = [tensor("pages", pages), tensor("pairs", &uploaded), size(pairs.len() / 2), size(vectors)];
        self.launch("copy_pages", [vectors.div_ceil(THREADS), 1, 1], &arguments);
    }
}
