//! LayerNorm fused with the residual addition before it.

use super::Tensor;

/// `h = x + add`, `y = (h − mean) · rstd · w + b` with `rstd = 1 / sqrt(var(h) + epsilon)`, biased variance (Ba et al. 2016).
pub trait LayerNorm {
    /// x, add Activation `[T, D]`; w, b Bf16 `[D]`.
    fn layer_norm_forward(&self, x: &Tensor, add: Option<&Tensor>, w: &Tensor, b: &Tensor, epsilon: f32)
    -> LayerNormed;
    /// With `n = (h − mean) · rstd` and `g = dy·w`: `dh = dresidual + rstd · (g − mean(g) − n · mean(g·n))`,
    /// `dw += Σ_t dy·n`, `db += Σ_t dy`.
    #[allow(clippy::too_many_arguments)] // each is a tensor of the formula
    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        mean: &Tensor,
        rstd: &Tensor,
        dwb: Option<(&mut Tensor, &mut Tensor)>,
    ) -> Tensor;
}

/// Output of [`LayerNorm::layer_norm_forward`].
#[derive(Debug)]
pub struct LayerNormed {
    /// `x + add`, `[T, D]`; absent when nothing was added.
    pub sum: Option<Tensor>,
    /// The normalised rows, `[T, D]`.
    pub y: Tensor,
    /// Saved: F32 `[T]`.
    pub mean: Tensor,
    /// Saved: F32 `[T]`.
    pub rstd: Tensor,
}
