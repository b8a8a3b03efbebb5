//! Moving and adding whole rows.

use super::Tensor;

/// Row selection and in-place addition.
pub trait Rows {
    /// `y[i] = x[index[i]]`; x Activation `[R, D]`, index I32 `[N]`. Returns `[N, D]`.
    fn gather_rows(&self, x: &Tensor, index: &Tensor) -> Tensor;
    /// `dx[index[i]] += dy[i]` in ascending `i`, onto zeros. Returns `[rows, D]`.
    fn gather_rows_backward(&self, dy: &Tensor, index: &Tensor, rows: usize) -> Tensor;
    /// The rows of `parts`, one behind the other: Activations `[R_i, D]`, at least one. Returns `[Σ R_i, D]`.
    fn concat_rows(&self, parts: &[&Tensor]) -> Tensor;
    /// `x += y`, elementwise, the same shape.
    fn add(&self, x: &mut Tensor, y: &Tensor);
}
