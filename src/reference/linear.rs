//! Matrix products with a parameter: see [`crate::ops::linear`].

use super::buffers::{f64s, f64s_mut, floats};
use super::{Reference, expect_shape};
use crate::ops::linear::Linear;
use crate::ops::{Dtype, Tensor};

impl Linear for Reference {
    fn linear_forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
        let (rows, columns, inner) = (x.rows(), w.rows(), w.cols());
        expect_shape("linear_forward x", x, &[rows, inner]);
        let mut y = Vec::with_capacity(rows * columns);
        for x in f64s(x).chunks_exact(inner) {
            y.extend(f64s(w).chunks_exact(inner).map(|w| dot(x, w)));
        }
        if let Some(b) = b {
            expect_shape("linear_forward b", b, &[columns]);
            y.chunks_exact_mut(columns).for_each(|y| add_scaled(y, 1.0, f64s(b)));
        }
        floats(y, &[rows, columns], Dtype::Activation)
    }

    fn linear_backward_input(&self, dy: &Tensor, w: &Tensor) -> Tensor {
        let (rows, columns, inner) = (dy.rows(), w.rows(), w.cols());
        expect_shape("linear_backward_input dy", dy, &[rows, columns]);
        let mut dx = vec![0.0; rows * inner];
        for (dx, dy) in dx.chunks_exact_mut(inner).zip(f64s(dy).chunks_exact(columns)) {
            for (dy, w) in dy.iter().zip(f64s(w).chunks_exact(inner)) {
                add_scaled(dx, *dy, w);
            }
        }
        floats(dx, &[rows, inner], Dtype::Activation)
    }

    fn linear_backward_weight(&self, dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>) {
        let (columns, inner) = (dy.cols(), x.cols());
        expect_shape("linear_backward_weight x", x, &[dy.rows(), inner]);
        expect_shape("linear_backward_weight dw", dw, &[columns, inner]);
        for (dy, x) in f64s(dy).chunks_exact(columns).zip(f64s(x).chunks_exact(inner)) {
            for (dy, dw) in dy.iter().zip(f64s_mut(dw).chunks_exact_mut(inner)) {
                add_scaled(dw, *dy, x);
            }
        }
        if let Some(db) = db {
            expect_shape("linear_backward_weight db", db, &[columns]);
            f64s(dy).chunks_exact(columns).for_each(|dy| add_scaled(f64s_mut(db), 1.0, dy));
        }
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y += scale · x`.
pub fn add_scaled(y: &mut [f64], scale: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}
