//! Rotary positions and the page write: `kernels/rope.cu`.

use super::device::Argument;
use super::kernels::common::pages;
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::Tensor;
use crate::ops::attention::{Heads, PAGE_TOKENS};
use crate::ops::rope::{PageWrite, Rope};

const _: () = assert!(pages::PAGE_TOKENS == PAGE_TOKENS);

impl Rope for Cuda {
    fn rope_forward(&self, qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, write: Option<PageWrite<'_>>) {
        let (pages, slots) = write.map(|write| (&*write.pages, write.slots)).unzip();
        if let (Some(pages), Some(slots)) = (pages, slots) {
            let page = 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim;
            assert_eq!(pages.cols(), page, "rope_forward pages: {pages:?} for {heads:?}");
            expect_shape("rope_forward slots", slots, &[qkv.rows()]);
        }
        let write = [optional("pages", pages), optional("slots", slots)];
        self.rotate("rope_forward", qkv, heads, cos_sin, &write);
    }

    fn rope_backward(&self, dqkv: &mut Tensor, heads: Heads, cos_sin: &Tensor) {
        self.rotate("rope_backward", dqkv, heads, cos_sin, &[]);
    }
}

impl Cuda {
    #[track_caller]
    fn rotate(&self, kernel: &str, qkv: &Tensor, heads: Heads, cos_sin: &Tensor, write: &[Argument<'_>]) {
        let tokens = qkv.rows();
        expect_shape(&format!("{kernel} qkv"), qkv, &[tokens, heads.qkv()]);
        expect_shape(&format!("{kernel} cos_sin"), cos_sin, &[tokens, heads.head_dim]);
        let mut arguments = vec![tensor("qkv", qkv), tensor("cos_sin", cos_sin)];
        arguments.extend_from_slice(write);
        arguments.extend([size(heads.heads), size(heads.kv_heads), size(heads.head_dim)]);
        self.launch(kernel, [tokens, 1, 1], &arguments);
    }
}
