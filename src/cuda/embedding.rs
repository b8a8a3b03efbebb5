//! Token embedding with image rows spliced in: `kernels/embedding.cu`; its gradients are sums of rows, as in `kernels/rows.cu`.

use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::embedding::{Embedding, ImageRows};
use crate::ops::{Dtype, Tensor};

impl Embedding for Cuda {
    fn embedding_forward(&self, table: &Tensor, ids: &Tensor, images: Option<ImageRows<'_>>) -> Tensor {
        let (tokens, dim) = (ids.len(), table.cols());
        if let Some(images) = images {
            expect_shape("embedding_forward image rows", images.rows, &[images.rows.rows(), dim]);
            expect_shape("embedding_forward image index", images.index, &[tokens]);
        }
        let x = self.empty(&[tokens, dim], Dtype::Activation);
        self.launch_pieces(
            "embedding_forward",
            tokens,
            dim,
            &[
                tensor("table", table),
                tensor("ids", ids),
                optional("images", images.map(|images| images.rows)),
                optional("image_index", images.map(|images| images.index)),
                tensor("x", &x),
                size(dim),
            ],
        );
        x
    }

    fn embedding_backward(
        &self,
        dy: &Tensor,
        ids: &Tensor,
        image_index: Option<&Tensor>,
        dtable: Option<&mut Tensor>,
        dimages: Option<&mut Tensor>,
    ) {
        let (tokens, dim) = (ids.len(), dy.cols());
        expect_shape("embedding_backward dy", dy, &[tokens, dim]);
        if let Some(index) = image_index {
            expect_shape("embedding_backward image index", index, &[tokens]);
        }
        if let Some(dtable) = dtable {
            expect_shape("embedding_backward dtable", dtable, &[dtable.rows(), dim]);
            self.add_rows_at(dy, ids, image_index, dtable);
        }
        if let (Some(dimages), Some(index)) = (dimages, image_index) {
            expect_shape("embedding_backward dimages", dimages, &[dimages.rows(), dim]);
            self.add_rows_at(dy, index, None, dimages);
        }
    }
}
