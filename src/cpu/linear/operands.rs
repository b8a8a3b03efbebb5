//! What a matrix product is made of.

use half::bf16;

use super::super::simd::{LANES, kernel};

/// Length of `k` between stores of a tile: a block of rows stays in the first-level cache.
pub const DEPTH: usize = 512;

/// The left operand, `[M, K]` as the product sees it.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Stored `[M, K]`.
    Rows(&'a [f32]),
    /// Stored `[K, M]`.
    Columns(&'a [f32]),
}

/// The right operand, `[K, N]` as the product sees it.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// Stored `[N, K]`: a parameter, going forward.
    Parameter(&'a [bf16]),
    /// The same, packed whole.
    Panels(&'a [bf16]),
    /// Stored `[K, N]`: a parameter, going backward.
    ParameterBackward(&'a [bf16]),
    /// Stored `[K, N]`.
    Rows(&'a [f32]),
}

/// Where each chain begins.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    /// At the column's bias, `[N]`.
    Bias(&'a [bf16]),
    /// At the output's value.
    Sum,
}

/// Sizes of a product: `[rows, depth] · [depth, cols]`.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
}

kernel! {
    /// Rows and columns of the largest tile.
    pub fn tile_size<L>() -> (usize, usize) {
        (L::TILE_ROWS, L::TILE_VECTORS * LANES)
    }
}
