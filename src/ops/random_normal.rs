//! Normal random numbers, as weights begin.

use super::Tensor;
use super::sample::philox_uniform;

/// Drawing a tensor; nothing is differentiated.
pub trait RandomNormal {
    /// A new Bf16 tensor of mean 0 and standard deviation `std`: its element i, in row-major order, is
    /// `std · standard_normal(seed, stream, i)`, multiplied in f32 and rounded to bf16.
    fn random_normal(&self, shape: &[usize], std: f32, seed: u64, stream: u64) -> Tensor;
}

/// Number `index` of a stream of mean 0 and variance 1 (Box & Muller 1958), computed in f64 and rounded to f32:
/// `sqrt(-2 ln(1 - u[2 index])) cos(2π u[2 index + 1])`, where `u[i] = philox_uniform(seed, stream, i)`.
///
/// Devices agree on every step but the last bit or two of the logarithm and the cosine, which decides about one bf16 of 2⁴⁴.
pub fn standard_normal(seed: u64, stream: u64, index: u64) -> f32 {
    let radius = (-2.0 * (1.0 - philox_uniform(seed, stream, 2 * index)).ln()).sqrt();
    let angle = std::f64::consts::TAU * philox_uniform(seed, stream, 2 * index + 1);
    (radius * angle.cos()) as f32
}
