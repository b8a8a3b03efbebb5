//! Rows gathered, scattered back and added.

use super::simd::{LANES, kernel};
use super::{Cpu, floats, floats_mut, for_row_blocks, values};
use crate::ops::rows::Rows;
use crate::ops::{Buffers, Dtype, Tensor};

/// Elements that [`Rows::add`] hands to a thread at once.
const ADD_BLOCK: usize = 1024;

impl Rows for Cpu {
    fn gather_rows(&self, x: &Tensor, index: &Tensor) -> Tensor {
        let (rows, dim) = (x.rows(), x.cols());
        let (x, index) = (floats(x), values::<i32>(index));
        let mut y = self.empty(&[index.len(), dim], Dtype::Activation);
        for_row_blocks(floats_mut(&mut y), dim, dim, |first, y| {
            for (y, &index) in y.chunks_exact_mut(dim).zip(&index[first..]) {
                y.copy_from_slice(row(x, index, rows, dim));
            }
        });
        y
    }

    fn gather_rows_backward(&self, dy: &Tensor, index: &Tensor, rows: usize) -> Tensor {
        let dim = dy.cols();
        assert_eq!(index.len(), dy.rows(), "gather_rows_backward: index {:?}, dy {:?}", index.shape(), dy.shape());
        let mut dx = self.zeros(&[rows, dim], Dtype::Activation);
        let to = floats_mut(&mut dx);
        for (dy, &index) in floats(dy).chunks_exact(dim).zip(values::<i32>(index)) {
            assert!((index as usize) < rows, "gather_rows_backward: index {index} of {rows} rows");
            add_to(self.simd, &mut to[index as usize * dim..][..dim], dy);
        }
        dx
    }

    fn concat_rows(&self, parts: &[&Tensor]) -> Tensor {
        let (rows, dim) = (parts.iter().map(|part| part.rows()).sum(), parts[0].cols());
        let mut y = self.empty(&[rows, dim], Dtype::Activation);
        let mut rest = floats_mut(&mut y);
        for part in parts {
            assert_eq!(part.cols(), dim, "concat_rows: part {:?}", part.shape());
            let (to, tail) = rest.split_at_mut(part.len());
            to.copy_from_slice(floats(part));
            rest = tail;
        }
        y
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) {
        assert_eq!(x.shape(), y.shape(), "add");
        let y = floats(y);
        let x = floats_mut(x);
        let (blocks, rest) = x.split_at_mut(x.len() / ADD_BLOCK * ADD_BLOCK);
        add_to(self.simd, rest, &y[blocks.len()..]);
        for_row_blocks(blocks, ADD_BLOCK, ADD_BLOCK, |first, x| {
            add_to(self.simd, x, &y[first * ADD_BLOCK..][..x.len()]);
        });
    }
}

fn row(x: &[f32], index: i32, rows: usize, dim: usize) -> &[f32] {
    assert!((index as usize) < rows, "gather_rows: index {index} of {rows} rows");
    &x[index as usize * dim..][..dim]
}

kernel! {
    /// `x += y`.
    pub(super) fn add_to<L>(x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        for (x, y) in x.chunks_mut(LANES).zip(y.chunks(LANES)) {
            L::load_tail(x, 0.0).add(L::load_tail(y, 0.0)).store_tail(x);
        }
    }
}
