//! The size of a gradient.

use super::Tensor;

/// Reduction over whole tensors.
pub trait GradNorm {
    /// `Σ x²` over all elements of all tensors, F32 each, in an order that only their shapes decide, accumulated in f64; not finite if any
    /// element is not.
    fn sum_of_squares(&self, tensors: &[&Tensor]) -> f64;
}
