//! Matrix products with a parameter: `kernels/linear.cu`. The launch chooses the tile by the sizes; the bits are the same in each.

use super::device::Argument;
use super::kernels::common::product::*;
use super::kernels::common::types::VECTOR;
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::linear::Linear;
use crate::ops::{Dtype, Tensor};

/// A tile of `kernels/common/product.cuh`, the end of its kernels' names.
pub(super) struct Tile {
    name: &'static str,
    rows: usize,
    columns: usize,
    stages: usize,
}

const LARGE: Tile = Tile { name: "large", rows: LARGE_M, columns: LARGE_N, stages: LARGE_STAGES };
const WIDE: Tile = Tile { name: "wide", rows: WIDE_M, columns: WIDE_N, stages: WIDE_STAGES };
const FEW: [Tile; 3] = [
    Tile { name: "few_16", rows: FEW_16_M, columns: FEW_N, stages: FEW_16_STAGES },
    Tile { name: "few_32", rows: FEW_32_M, columns: FEW_N, stages: FEW_32_STAGES },
    Tile { name: "few_64", rows: FEW_64_M, columns: FEW_N, stages: FEW_64_STAGES },
];
const UNALIGNED: Tile = Tile { name: "unaligned", rows: UNALIGNED_M, columns: UNALIGNED_N, stages: UNALIGNED_STAGES };

/// Blocks of the large tile that a result makes at least, if it is to have it: it reads its factors the fewest times, but an A100 has 108
/// multiprocessors and an H100 132, and fewer blocks leave many of them without work. Half as many wide ones are enough.
const LARGE_BLOCKS_MIN: usize = 96;
const WIDE_BLOCKS_MIN: usize = LARGE_BLOCKS_MIN / 2;

impl Linear for Cuda {
    fn linear_forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
        let (rows, columns, inner) = (x.rows(), w.rows(), w.cols());
        expect_shape("linear_forward x", x, &[rows, inner]);
        if let Some(b) = b {
            expect_shape("linear_forward b", b, &[columns]);
        }
        let y = self.empty(&[rows, columns], Dtype::Activation);
        self.launch_product(
            "linear_forward",
            forward_tile(rows, columns, inner),
            [rows, columns],
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
        self.launch_product(
            "linear_backward_input",
            backward_tile(columns, inner),
            [rows, inner],
            &[tensor("dy", dy), tensor("w", w), tensor("dx", &dx), size(rows), size(columns), size(inner)],
        );
        dx
    }

    fn linear_backward_weight(&self, dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>) {
        let (rows, columns, inner) = (dy.rows(), dy.cols(), x.cols());
        expect_shape("linear_backward_weight x", x, &[rows, inner]);
        expect_shape("linear_backward_weight dw", dw, &[columns, inner]);
        let arguments = [tensor("dy", dy), tensor("x", x), tensor("dw", dw), size(rows), size(columns), size(inner)];
        self.launch_product("linear_backward_weight", backward_tile(columns, inner), [columns, inner], &arguments);
        if let Some(db) = db {
            expect_shape("linear_backward_weight db", db, &[columns]);
            self.add_column_sums("linear_backward_bias", &[tensor("dy", dy)], rows, db);
        }
    }
}

impl Cuda {
    /// Runs the kernel of a tile for a result of `[rows, columns]`; which of its blocks has which part of it, `block_tile` of
    /// `kernels/common/product.cuh` says.
    #[track_caller]
    pub(super) fn launch_product(
        &self,
        kernel: &str,
        tile: &Tile,
        [rows, columns]: [usize; 2],
        arguments: &[Argument<'_>],
    ) {
        let grid = [columns.div_ceil(tile.columns), rows.div_ceil(tile.rows), 1];
        let shared_bytes = product_bytes(tile.rows, tile.columns, tile.stages);
        self.launch_shared(&format!("{kernel}_{}", tile.name), grid, shared_bytes, arguments);
    }
}

/// The tile for `[rows, inner] · [columns, inner]ᵀ`.
pub(super) fn forward_tile(rows: usize, columns: usize, inner: usize) -> &'static Tile {
    let blocks = |tile: &Tile| rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns);
    if !inner.is_multiple_of(VECTOR) {
        &UNALIGNED
    } else if rows > WIDE.rows && blocks(&LARGE) >= LARGE_BLOCKS_MIN {
        &LARGE
    } else if rows > FEW[0].rows && blocks(&WIDE) >= WIDE_BLOCKS_MIN {
        &WIDE
    } else {
        FEW.iter().find(|tile| rows <= tile.rows).unwrap_or(&FEW[2])
    }
}

/// The tile for gradients of a parameter `[columns, inner]`, whose factors have lines of either length.
pub(super) fn backward_tile(columns: usize, inner: usize) -> &'static Tile {
    if columns.is_multiple_of(VECTOR) && inner.is_multiple_of(VECTOR) { &LARGE } else { &UNALIGNED }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of Qwen2.5-VL-7B: a step of decoding, a chunk of a prompt, a micro-batch.
    #[test]
    fn the_tile_is_that_of_the_sizes() {
        let name = |rows, columns, inner| forward_tile(rows, columns, inner).name;
        for (rows, narrow, gate_up) in [
            (1, "few_16", "few_16"),
            (32, "few_32", "wide"),
            (64, "few_64", "wide"),
            (256, "wide", "large"),
            (4096, "large", "large"),
        ] {
            assert_eq!([name(rows, 3584, 18_944), name(rows, 37_888, 3584)], [narrow, gate_up], "{rows} rows");
        }
        assert_eq!(name(4096, 1280, 3420), "unaligned");
        assert_eq!([backward_tile(3584, 18_944).name, backward_tile(1280, 3420).name], ["large", "unaligned"]);
    }
}
