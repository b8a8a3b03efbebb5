//! GELU in the two forms that the vision towers use.

use super::Tensor;

/// Elementwise, any shape.
pub trait Gelu {
    /// `y = x · Φ(x)`.
    fn gelu_forward(&self, x: &Tensor, form: GeluForm) -> Tensor;
    /// `dx = dy · (Φ(x) + x · Φ'(x))`.
    fn gelu_backward(&self, dy: &Tensor, x: &Tensor, form: GeluForm) -> Tensor;
}

/// What stands for `Φ`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GeluForm {
    /// `Φ(x) = (1 + erf(x / √2)) / 2` (Hendrycks & Gimpel 2016): the patch merger.
    Erf,
    /// `Φ(x) = 1 / (1 + exp(−1.702 x))`: vision blocks with LayerNorm.
    Quick,
}
