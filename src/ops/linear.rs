//! `y = x wᵀ + b`.

use super::Tensor;

/// Matrix products with a parameter.
///
/// Every output element is one chain over `k = 0, 1, …` in ascending order, whatever the number of rows.
pub trait Linear {
    /// `y[t, n] = Σ_k x[t, k] w[n, k] + b[n]`; x Activation `[T, K]`, w Bf16 `[N, K]`, b Bf16 `[N]`; returns Activation `[T, N]`.
    fn linear_forward(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor;
    /// `dx[t, k] = Σ_n dy[t, n] w[n, k]`; returns `[T, K]`.
    fn linear_backward_input(&self, dy: &Tensor, w: &Tensor) -> Tensor;
    /// `dw[n, k] += Σ_t dy[t, n] x[t, k]`, `db[n] += Σ_t dy[t, n]`; dw F32 `[N, K]`, db F32 `[N]`.
    fn linear_backward_weight(&self, dy: &Tensor, x: &Tensor, dw: &mut Tensor, db: Option<&mut Tensor>);
}
