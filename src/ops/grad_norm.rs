//! The size of a gradient.

use super::Tensor;

/// Reduction over whole tensors.
pub trait GradNorm {
    /// `Σ x²` over all elements in a fixed order, accumulated in f64; not finite if any element is not.
    fn sum_of_squares(&self, x: &Tensor) -> f64;
}
