//! How far a backend may be from the definition.

use crate::ops::Dtype;

/// The tolerances: how far an element may be from the exact one, relative to the largest of its tensor (or 1, if that is more).
///
/// Each f32 rounding is off by at most `u = 2⁻²⁴` of the running value. Over a chain of `chain` of them the errors, of random sign,
/// add up to about `sqrt(chain) · u` of the largest partial sum, which a cancelling result can be a few times smaller than; exp, sqrt
/// and division are good to about 2 u. The factor 8 holds both.
///
/// CUDA's activations are bf16: a rounding is off by at most `2⁻⁹`, and a result has up to four behind it (an activation that was saved,
/// one that was added, the output itself, and that of the forward for a gradient). Tensor cores cut toward zero at `2⁻²⁵` of the largest
/// of 16 terms and cut the sum at `2⁻²³`, always the same way, so these errors add up in line.
pub fn tolerance(backend: &str, dtype: Dtype, chain: usize) -> f64 {
    let chain = chain.max(1) as f64;
    match (backend, dtype) {
        ("cpu", Dtype::Activation | Dtype::F32) => 8.0 * 2f64.powi(-24) * chain.sqrt(),
        ("simt" | "gpu", Dtype::Activation | Dtype::F32) => 4.0 * 2f64.powi(-9) + 2f64.powi(-23) * chain,
        _ => panic!("{backend} has no tolerance for {dtype:?}"),
    }
}
