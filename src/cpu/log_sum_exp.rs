//! The one log-sum-exp that `sample` and `token_logprob` share, so that what is sampled and what is learned agree to the bit.

use super::simd::{LANES, Simd, kernel};

/// What one pass over a row of logits `z` at inverse temperature `1/τ` gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    /// The largest `z/τ`.
    pub top: f32,
    /// `ln Σ exp(z/τ)`.
    pub lse: f32,
    /// Entropy of `softmax(z/τ)` in nats.
    pub entropy: f32,
}

/// Floats summed in f32 before they go to f64.
const BLOCK: usize = 64 * LANES;

kernel! {
    /// The softmax of `z · inverse`. Lanes are summed in f32 over fixed blocks, blocks in f64.
    pub(super) fn softmax<L>(z: &[f32], inverse: f32) -> Softmax {
        let scale = L::splat(inverse);
        let mut tops = L::splat(f32::NEG_INFINITY);
        for chunk in z.chunks(LANES) {
            tops = tops.max(L::load_tail(chunk, f32::NEG_INFINITY).mul(scale));
        }
        let top = tops.max_lane();
        let (mut sum, mut weighted) = (0.0f64, 0.0f64);
        for block in z.chunks(BLOCK) {
            let (mut sums, mut products) = (L::splat(0.0), L::splat(0.0));
            for chunk in block.chunks(LANES) {
                let below = L::load_tail(chunk, f32::NEG_INFINITY).mul(scale).sub(L::splat(top));
                let e = below.exp();
                sums = sums.add(e);
                // A logit of −∞ has no share in the entropy: 0 · −∞ must not be formed.
                products = e.mul_add(below.max(L::splat(-1e4)), products);
            }
            sum += f64::from(sums.sum());
            weighted += f64::from(products.sum());
        }
        let log = sum.ln();
        Softmax { top, lse: (f64::from(top) + log) as f32, entropy: (log - weighted / sum) as f32 }
    }
}

kernel! {
    /// `out = exp(z · inverse − shift)`.
    pub(super) fn exp_shifted<L>(z: &[f32], inverse: f32, shift: f32, out: &mut [f32]) {
        assert_eq!(z.len(), out.len());
        for (z, out) in z.chunks(LANES).zip(out.chunks_mut(LANES)) {
            L::load_tail(z, 0.0).mul(L::splat(inverse)).sub(L::splat(shift)).exp().store_tail(out);
        }
    }
}

/// Log-probability of `target` under `softmax(z · inverse)`, whose log-sum-exp is `lse`.
pub(super) fn log_probability(z: &[f32], inverse: f32, lse: f32, target: usize) -> f32 {
    z[target] * inverse - lse
}

/// Takes excluded tokens out of a row of logits.
pub(super) fn exclude<'a>(z: &'a mut [f32], excluded: &[u32]) -> &'a [f32] {
    for &token in excluded {
        z[token as usize] = f32::NEG_INFINITY;
    }
    z
}

/// The softmax of a row without its excluded tokens at temperature `1 / inverse`. `raw` is that of the whole row at temperature 1, which it
/// is where nothing differs.
pub(super) fn softmax_at_temperature(simd: Simd, z: &[f32], inverse: f32, raw: Softmax, excluded: &[u32]) -> Softmax {
    if inverse == 1.0 && excluded.is_empty() { raw } else { softmax(simd, z, inverse) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_agrees_with_f64_and_is_the_same_on_every_instruction_set() {
        let z: Vec<f32> = (0..3001).map(|i| 8.0 * ((i * i) as f32 * 0.37).sin()).collect();
        for inverse in [1.0f32, 0.5, 3.0] {
            let exact: f64 = z.iter().map(|&z| (f64::from(z) * f64::from(inverse)).exp()).sum::<f64>().ln();
            let entropy: f64 =
                z.iter().map(|&z| f64::from(z) * f64::from(inverse) - exact).map(|log| -log * log.exp()).sum();
            let portable = softmax(Simd::portable(), &z, inverse);
            assert!((f64::from(portable.lse) - exact).abs() < 2e-6, "{} {exact}", portable.lse);
            assert!((f64::from(portable.entropy) - entropy).abs() < 1e-5, "{} {entropy}", portable.entropy);
            for simd in Simd::available() {
                let here = softmax(simd, &z, inverse);
                assert_eq!((here.lse, here.entropy), (portable.lse, portable.entropy), "{simd:?}");
            }
        }
    }

    #[test]
    fn logits_of_minus_infinity_have_no_share() {
        let some = softmax(Simd::detect(), &[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 1.0], 1.0);
        assert!((some.entropy - 2.0f32.ln()).abs() < 1e-6 && (some.lse - 1.0 - 2.0f32.ln()).abs() < 1e-6);
    }
}
