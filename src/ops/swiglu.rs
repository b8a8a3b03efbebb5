//! SwiGLU (Shazeer 2020) over a fused gate and up projection.

use super::Tensor;

/// `y[t, i] = silu(gate[t, i]) · up[t, i]`, `silu(g) = g / (1 + exp(−g))`.
pub trait Swiglu {
    /// gate_up Activation `[T, 2 F]`: gate, then up. Returns `[T, F]`.
    fn swiglu_forward(&self, gate_up: &Tensor) -> Tensor;
    /// With `σ = 1 / (1 + exp(−g))`: `dgate = dy · up · σ · (1 + g · (1 − σ))`, `dup = dy · g · σ`. Returns `[T, 2 F]`.
    fn swiglu_backward(&self, dy: &Tensor, gate_up: &Tensor) -> Tensor;
}
