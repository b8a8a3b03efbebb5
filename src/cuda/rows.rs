//! Rows gathered, scattered back, joined and added: `kernels/rows.cu`.

use super::buffers::span;
use super::kernels::rows::SORT_THREADS;
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::rows::Rows;
use crate::ops::{Buffers, Dtype, Tensor};

impl Rows for Cuda {
    fn gather_rows(&self, x: &Tensor, index: &Tensor) -> Tensor {
        let (rows, dim) = (index.len(), x.cols());
        let y = self.empty(&[rows, dim], Dtype::Activation);
        let arguments = [tensor("x", x), tensor("index", index), tensor("y", &y), size(dim)];
        self.launch_pieces("rows_gather", rows, dim, &arguments);
        y
    }

    fn gather_rows_backward(&self, dy: &Tensor, index: &Tensor, rows: usize) -> Tensor {
        expect_shape("gather_rows_backward dy", dy, &[index.len(), dy.cols()]);
        let dx = self.zeros(&[rows, dy.cols()], Dtype::Activation);
        self.add_rows_at(dy, index, None, &dx);
        dx
    }

    fn concat_rows(&self, parts: &[&Tensor]) -> Tensor {
        let (rows, dim) = (parts.iter().map(|part| part.rows()).sum(), parts[0].cols());
        let y = self.empty(&[rows, dim], Dtype::Activation);
        let mut offset = 0;
        for part in parts {
            expect_shape("concat_rows part", part, &[part.rows(), dim]);
            let bytes = span(part).bytes();
            self.copy(span(&y).part(offset, bytes), span(part));
            offset += bytes;
        }
        y
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) {
        expect_shape("add y", y, x.shape());
        let arguments = [tensor("x", x), tensor("y", y), size(x.cols())];
        self.launch_pieces("rows_add", x.rows(), x.cols(), &arguments);
    }
}

impl Cuda {
    /// `to[index[i]] += dy[i]` in ascending `i` where `index` is not negative and `except` is. The sums are f32; where `to` holds
    /// activations, they begin with its value and are rounded once.
    #[track_caller]
    pub(super) fn add_rows_at(&self, dy: &Tensor, index: &Tensor, except: Option<&Tensor>, to: &Tensor) {
        let (count, dim) = (index.len(), dy.cols());
        let (order, rows) = (self.empty(&[count], Dtype::I32), self.empty(&[count], Dtype::I32));
        self.launch(
            "rows_sort",
            [count.div_ceil(SORT_THREADS), 1, 1],
            &[
                tensor("index", index),
                optional("except", except),
                tensor("order", &order),
                tensor("rows", &rows),
                size(count),
            ],
        );
        let kernel = if to.dtype() == Dtype::F32 { "rows_scatter_f32" } else { "rows_scatter_bf16" };
        self.launch_pieces(
            kernel,
            count,
            dim,
            &[
                tensor("dy", dy),
                tensor("order", &order),
                tensor("rows", &rows),
                tensor("to", to),
                size(count),
                size(dim),
            ],
        );
    }
}
