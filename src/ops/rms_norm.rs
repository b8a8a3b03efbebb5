//! RMSNorm fused with the residual addition before it.

use super::Tensor;

/// `h = x + add`, `y = h · rstd · w` with `rstd = 1 / sqrt(mean(h²) + epsilon)` (Zhang & Sennrich 2019).
pub trait RmsNorm {
    /// x, add Activation `[T, D]`; w Bf16 `[D]`.
    fn rms_norm_forward(&self, x: &Tensor, add: Option<&Tensor>, w: &Tensor, epsilon: f32) -> RmsNormed;
    /// The gradient of `h` (which is that of `x` and of `add`):
    /// `dh = dresidual + rstd · (dy·w − h · rstd² · mean(dy·w·h))`, `dw += Σ_t dy · h · rstd`.
    ///
    /// h `[T, D]` as normalised (`x` itself when nothing was added); rstd F32 `[T]`; dresidual Activation `[T, D]`; dw F32 `[D]`.
    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        rstd: &Tensor,
        dw: Option<&mut Tensor>,
    ) -> Tensor;
}

/// Output of [`RmsNorm::rms_norm_forward`].
#[derive(Debug)]
pub struct RmsNormed {
    /// `x + add`, `[T, D]`; absent when nothing was added.
    pub sum: Option<Tensor>,
    /// The normalised rows, `[T, D]`.
    pub y: Tensor,
    /// Saved: F32 `[T]`.
    pub rstd: Tensor,
}
