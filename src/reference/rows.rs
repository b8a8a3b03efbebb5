//! Row selection and addition: see [`crate::ops::rows`].

use super::buffers::{f64s, f64s_mut, floats, i32s};
use super::linear::add_scaled;
use super::{Reference, expect_shape};
use crate::ops::rows::Rows;
use crate::ops::{Dtype, Tensor};

impl Rows for Reference {
    fn gather_rows(&self, x: &Tensor, index: &Tensor) -> Tensor {
        let dim = x.cols();
        let y = i32s(index).iter().flat_map(|i| &f64s(x)[*i as usize * dim..][..dim]).copied().collect();
        floats(y, &[index.len(), dim], Dtype::Activation)
    }

    fn gather_rows_backward(&self, dy: &Tensor, index: &Tensor, rows: usize) -> Tensor {
        let dim = dy.cols();
        expect_shape("gather_rows_backward dy", dy, &[index.len(), dim]);
        let mut dx = vec![0.0; rows * dim];
        for (i, dy) in i32s(index).iter().zip(f64s(dy).chunks_exact(dim)) {
            add_scaled(&mut dx[*i as usize * dim..][..dim], 1.0, dy);
        }
        floats(dx, &[rows, dim], Dtype::Activation)
    }

    fn concat_rows(&self, parts: &[&Tensor]) -> Tensor {
        let rows = parts.iter().map(|part| part.rows()).sum();
        let values = parts.iter().flat_map(|part| f64s(part)).copied().collect();
        floats(values, &[rows, parts[0].cols()], Dtype::Activation)
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) {
        expect_shape("add y", y, x.shape());
        add_scaled(f64s_mut(x), 1.0, f64s(y));
    }
}
