//! Sum of squares: see [`crate::ops::grad_norm`].

use super::Reference;
use super::buffers::f64s;
use crate::ops::Tensor;
use crate::ops::grad_norm::GradNorm;

impl GradNorm for Reference {
    fn sum_of_squares(&self, tensors: &[&Tensor]) -> f64 {
        tensors.iter().flat_map(|x| f64s(x)).map(|x| x * x).sum()
    }
}
