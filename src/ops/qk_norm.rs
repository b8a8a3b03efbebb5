//! RMSNorm of each query and key head, between projection and rotation.

use super::Tensor;
use super::attention::Heads;

/// Per head `x` of q and k, `y = x · rstd · w` with `rstd = 1 / sqrt(mean(x²) + epsilon)`; `w` is `wq` for the query heads and `wk` for the
/// key heads (query-key normalisation of Henry et al. 2020, by the RMSNorm of Zhang & Sennrich 2019).
pub trait QkNorm {
    /// Normalises the q and k heads of qkv in place: Activation `[T, (heads + 2 kv_heads) · head_dim]`, heads of q, then k, then v; wq, wk
    /// Bf16 `[head_dim]`. Returns what backward needs if `is_kept`.
    fn qk_norm_forward(
        &self,
        qkv: &mut Tensor,
        heads: Heads,
        wq: &Tensor,
        wk: &Tensor,
        epsilon: f32,
        is_kept: bool,
    ) -> Option<QkNormSaved>;
    /// Takes the gradient of the normalised heads to that of `x`, in place: `dx = rstd · (dy·w − x · rstd² · mean(dy·w·x))`; that of v stays.
    /// `dw += Σ dy · x · rstd` over tokens and the heads that share `w`, for wq and wk: F32 `[head_dim]` each.
    fn qk_norm_backward(
        &self,
        dqkv: &mut Tensor,
        heads: Heads,
        wq: &Tensor,
        wk: &Tensor,
        saved: &QkNormSaved,
        dw: Option<(&mut Tensor, &mut Tensor)>,
    );
}

/// What backward needs of [`QkNorm::qk_norm_forward`].
#[derive(Debug)]
pub struct QkNormSaved {
    /// The q and k heads as they were: Activation `[T, (heads + kv_heads) · head_dim]`.
    pub x: Tensor,
    /// F32 `[T, heads + kv_heads]`.
    pub rstd: Tensor,
}
