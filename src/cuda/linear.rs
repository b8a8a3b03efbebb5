//! Matrix products with a parameter: `kernels/linear.cu`.

use super::kernels::common::product::{TILE_M, TILE_N};
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::linear::Linear;
use crate::ops::{Dtype, Tensor};

impl Linear for Cuda {
    fn linear_forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
        let (rows, columns, inner) = (x.rows(), w.rows(), w.cols());
        expect_shape("linear_forward x", x, &[rows, inner]);
        if let Some(b) = b {
            expect_shape("linear_forward b", b, &[columns]);
        }
        let y = self.empty(&[rows, columns], Dtype::Activation);
        self.launch(
            "linear_forward",
            tiles(rows, columns),
            &[
                tensor("x", x),
                tensor("w", w),
                optional("b", b),
                tensor("y", &y),
                size(rows),
                size(columns),
                size(inner),
            ],
        );
        y
    }

    fn linear_backward_input(&self, dy: &Tensor, w: &Tensor) -> Tensor {
        let (rows, columns, inner) = (dy.rows(), w.rows(), w.cols());
        expect_shape("linear_backward_input dy", dy, &[rows, columns]);
        let dx = self.empty(&[rows, inner], Dtype::Activation);
        self.launch(
            "linear_backward_input",
            tiles(rows, inner),
            &[tensor("dy", dy), tensor("w", w), tensor("dx", &dx), size(rows), size(columns), size(inner)],
        );
        dx
    }

    fn linear_backward_weight(&self, dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>) {
        let (rows, columns, inner) = (dy.rows(), dy.cols(), x.cols());
        expect_shape("linear_backward_weight x", x, &[rows, inner]);
        expect_shape("linear_backward_weight dw", dw, &[columns, inner]);
        let arguments = [tensor("dy", dy), tensor("x", x), tensor("dw", dw), size(rows), size(columns), size(inner)];
        self.launch("linear_backward_weight", tiles(columns, inner), &arguments);
        if let Some(db) = db {
            expect_shape("linear_backward_weight db", db, &[columns]);
            self.add_column_sums("linear_backward_bias", &[tensor("dy", dy)], rows, db);
        }
    }
}

/// Blocks for a result of `rows` × `columns`; which of them has which tile, `block_tile` of `kernels/common/product.cuh` says.
pub(super) fn tiles(rows: usize, columns: usize) -> [usize; 3] {
    [columns.div_ceil(TILE_N), rows.div_ceil(TILE_M), 1]
}
