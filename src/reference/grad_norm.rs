//! Sum of squares: see [`crate::ops::grad_norm`].

use super::Reference;
use super::buffers::f64s;
use crate::ops::Tensor;
use crate::ops::grad_norm::GradNorm;

impl GradNorm for Reference {
    fn sum_of_squares(&self, x: &Tensor) -> f64 {
        f64s(x).iter().map(|x| x * x).sum()
    }
}
