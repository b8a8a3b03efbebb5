//! GELU, elementwise.

use super::simd::{LANES, Lanes, kernel};
use super::swiglu::one_plus_exp_minus;
use super::{Cpu, floats, floats_mut, for_row_blocks};
use crate::ops::gelu::{Gelu, GeluForm};
use crate::ops::{Dtype, Tensor};

/// Rough operations per element.
const COST: usize = 40;

impl Gelu for Cpu {
    fn gelu_forward(&self, x: &Tensor, form: GeluForm) -> Tensor {
        let mut y = self.empty(x.shape(), Dtype::Activation);
        let dim = x.cols();
        for_row_blocks(floats_mut(&mut y), dim, COST * dim, |first, y| {
            let x = &floats(x)[first * dim..][..y.len()];
            forward(self.simd, x, form == GeluForm::Erf, y);
        });
        y
    }

    fn gelu_backward(&self, dy: &Tensor, x: &Tensor, form: GeluForm) -> Tensor {
        assert_eq!(dy.shape(), x.shape(), "gelu_backward: dy");
        let mut dx = self.empty(x.shape(), Dtype::Activation);
        let dim = x.cols();
        for_row_blocks(floats_mut(&mut dx), dim, COST * dim, |first, dx| {
            let (dy, x) = (&floats(dy)[first * dim..][..dx.len()], &floats(x)[first * dim..][..dx.len()]);
            backward(self.simd, dy, x, form == GeluForm::Erf, dx);
        });
        dx
    }
}

/// `c[0] + c[1] x + …`
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(coefficients: [f32; N], x: L) -> L {
    let mut sum = L::splat(0.0);
    for &coefficient in coefficients.iter().rev() {
        sum = sum.mul_add(x, L::splat(coefficient));
    }
    sum
}

/// `Φ(x) = (1 + erf(x / √2)) / 2` within 1e-7, and `exp(−x² / 2)`.
///
/// With `z = |x| / √2`: up to 1 the Taylor series of `erf(z) / z` in `z²` through `z^18` (the next term is below 2e-8); above,
/// `erfc(z) = exp(−z²) · P(t)`, `t = 1 / (1 + z/2)`, P the polynomial of degree 6 that meets `erfc(z) exp(z²)` at the Chebyshev nodes
/// of t for z in 1 to 5; its error in erfc is below 7e-9, and beyond 5 erfc itself is below 2e-12.
#[inline(always)]
fn normal<L: Lanes>(x: L) -> (L, L) {
    let square = x.mul(x).mul(L::splat(0.5));
    let density = L::splat(0.0).sub(square).exp();
    let z = x.max(L::splat(0.0).sub(x)).mul(L::splat(std::f32::consts::FRAC_1_SQRT_2));

    // 2/√π · (−1)^n / (n! (2n + 1))
    let series = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.376_126_4,
        0.112_837_92,
        -0.026_866_17,
        0.005_223_978,
        -0.000_854_832_7,
        0.000_120_553_33,
        -1.492_565_1e-5,
        1.646_211_4e-6,
        -1.636_584_5e-7,
    ];
    let near = polynomial(series, square).mul(z);
    let t = L::splat(1.0).div(z.mul_add(L::splat(0.5), L::splat(1.0)));
    let fit = [0.000_344_873_14, 0.276_935_13, 0.313_536_7, 0.148_809_37, 0.331_261_55, 0.001_059_433_2, -0.072_899_35];
    let far = polynomial(fit, t).mul(density);
    // Half of erfc(z), the smaller side of Φ.
    let half = L::splat(0.5);
    let tail = z.select_less(L::splat(1.0), L::splat(1.0).sub(near), far).mul(half);
    (x.select_less(L::splat(0.0), tail, L::splat(1.0).sub(tail)), density)
}

kernel! {
    fn forward<L>(x: &[f32], erf: bool, y: &mut [f32]) {
        for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
            let x = L::load_tail(x, 0.0);
            if erf {
                x.mul(normal(x).0).store_tail(y);
            } else {
                x.div(one_plus_exp_minus(x.mul(L::splat(1.702)))).store_tail(y);
            }
        }
    }
}

kernel! {
    fn backward<L>(dy: &[f32], x: &[f32], erf: bool, dx: &mut [f32]) {
        for ((dy, x), dx) in dy.chunks(LANES).zip(x.chunks(LANES)).zip(dx.chunks_mut(LANES)) {
            let (dy, x) = (L::load_tail(dy, 0.0), L::load_tail(x, 0.0));
            let slope = if erf {
                let (phi, density) = normal(x);
                // 1 / √(2π)
                x.mul(density).mul_add(L::splat(0.398_942_3), phi)
            } else {
                let one = L::splat(1.0);
                let sigma = one.div(one_plus_exp_minus(x.mul(L::splat(1.702))));
                x.mul(L::splat(1.702)).mul(sigma).mul_add(one.sub(sigma), sigma)
            };
            dy.mul(slope).store_tail(dx);
        }
    }
}
