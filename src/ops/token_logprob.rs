//! Head and softmax fused: log-probabilities of given tokens without logits of all rows at once.

use super::Tensor;

/// Logits that a backend holds at a time, in F32; one row of a vocabulary may be more.
pub const LOGITS_MAX: usize = 1 << 24;

/// With `z = h wᵀ` in f32 (each element one chain, as in [`super::linear`]): `logprob = z[target] − lse(z)` and, at temperature τ,
/// `logprob_at_temperature = z[target]·(1/τ) − lse(z·(1/τ))`, where the log-sum-exp leaves `excluded` tokens out, as [`super::sample`] does:
/// their own log-probability is minus infinity. The log-sum-exp is the one that [`super::sample`] uses.
pub trait TokenLogprob {
    /// h Activation `[N, D]`; w Bf16 `[V, D]`; targets I32 `[N]`; temperatures F32 `[N]`, each above 0; at most
    /// [`super::sample::EXCLUDED_MAX`] different ids of the vocabulary are excluded.
    fn token_logprob_forward(
        &self,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        excluded: &[u32],
    ) -> TokenLogprobs;
    /// Gradient of `Σ_i dlogprob[i] · logprob_at_temperature[i]`: `dz = dlogprob/τ · (onehot(target) − softmax(z/τ))`, and 0 for excluded
    /// tokens, which the softmax leaves out; `dh = dz w`, `dw += dzᵀ h`.
    ///
    /// For `logprob` pass temperatures of 1, `lse_raw`, and nothing excluded. dlogprob, temperatures, lse F32 `[N]`; dw F32 `[V, D]`.
    /// With `entropy` it is that of the sum with `Σ_i dentropy[i] · entropy[i]`: `−dentropy · p · (ln p + entropy)` more in `dz`, of all tokens,
    /// with `p = softmax(z)`.
    #[allow(clippy::too_many_arguments)] // each is a tensor of the formula
    fn token_logprob_backward(
        &self,
        dlogprob: &Tensor,
        h: &Tensor,
        w: &Tensor,
        targets: &Tensor,
        temperatures: &Tensor,
        lse: &Tensor,
        excluded: &[u32],
        entropy: Option<EntropyGradient<'_>>,
        dw: Option<&mut Tensor>,
    ) -> Tensor;
}

/// Output of [`TokenLogprob::token_logprob_forward`], each F32 `[N]`.
#[derive(Debug)]
pub struct TokenLogprobs {
    /// At temperature 1 over the full vocabulary.
    pub logprob: Tensor,
    /// At the row's temperature without the excluded tokens; equal to `logprob` to the bit where that is 1 and nothing is excluded.
    pub logprob_at_temperature: Tensor,
    /// Saved for backward: `lse(z)`.
    pub lse_raw: Tensor,
    /// Saved: `lse(z/τ)` without the excluded tokens.
    pub lse_at_temperature: Tensor,
    /// Entropy of `softmax(z)` in nats.
    pub entropy: Tensor,
}

/// The gradient of the entropies, and what forward saved for it; each F32 `[N]`.
#[derive(Clone, Copy, Debug)]
pub struct EntropyGradient<'a> {
    /// Derivative of the loss by each entropy.
    pub dentropy: &'a Tensor,
    /// [`TokenLogprobs::entropy`].
    pub entropy: &'a Tensor,
    /// [`TokenLogprobs::lse_raw`].
    pub lse_raw: &'a Tensor,
}
