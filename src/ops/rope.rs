//! Rotary positions on the query and key heads, and the write of keys and values into pages.

use super::Tensor;
use super::attention::Heads;

/// Rotation in halves (Su et al. 2021, as in Llama): with `c, s = cos_sin[t]`, for `i < head_dim / 2`,
/// `q[i], q[i + head_dim/2] = q[i]·c[i] − q[i + head_dim/2]·s[i], q[i + head_dim/2]·c[i] + q[i]·s[i]`, the same for `k`.
///
/// M-RoPE and the vision tower's 2-D rotary differ only in the angles, which the caller tabulates.
pub trait Rope {
    /// Rotates the q and k heads of qkv in place: Activation `[T, (heads + 2 kv_heads) · head_dim]`, heads of q, then k, then v;
    /// cos_sin F32 `[T, head_dim]`: cosines of the head_dim/2 angles, then sines. With `write`, rotated keys and values of each
    /// token also go into its page slot.
    fn rope_forward(&self, qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, write: Option<PageWrite<'_>>);
    /// Rotates the gradient back, in place: the same with `−s`.
    fn rope_backward(&self, dqkv: &mut Tensor, heads: Heads, cos_sin: &Tensor);
}

/// Where rotated keys and values go.
#[derive(Debug)]
pub struct PageWrite<'a> {
    /// One layer's pages (see [`super::attention::Keys::Paged`]).
    pub pages: &'a mut Tensor,
    /// I32 `[T]`: `page · PAGE_TOKENS + offset` of each token.
    pub slots: &'a Tensor,
}
