//! GELU in two forms: see [`crate::ops::gelu`].

use std::f64::consts::{PI, SQRT_2};

use super::buffers::{f64s, floats};
use super::{Reference, expect_shape};
use crate::ops::gelu::{Gelu, GeluForm};
use crate::ops::{Dtype, Tensor};

impl Gelu for Reference {
    fn gelu_forward(&self, x: &Tensor, form: GeluForm) -> Tensor {
        let y = f64s(x).iter().map(|x| x * phi(*x, form)).collect();
        floats(y, x.shape(), Dtype::Activation)
    }

    fn gelu_backward(&self, dy: &Tensor, x: &Tensor, form: GeluForm) -> Tensor {
        expect_shape("gelu_backward dy", dy, x.shape());
        let dx = f64s(dy).iter().zip(f64s(x)).map(|(dy, x)| dy * (phi(*x, form) + x * dphi(*x, form))).collect();
        floats(dx, x.shape(), Dtype::Activation)
    }
}

fn phi(x: f64, form: GeluForm) -> f64 {
    match form {
        GeluForm::Erf => (1.0 + erf(x / SQRT_2)) / 2.0,
        GeluForm::Quick => 1.0 / (1.0 + (-1.702 * x).exp()),
    }
}

fn dphi(x: f64, form: GeluForm) -> f64 {
    match form {
        GeluForm::Erf => (-x * x / 2.0).exp() / (2.0 * PI).sqrt(),
        GeluForm::Quick => 1.702 * phi(x, form) * (1.0 - phi(x, form)),
    }
}

/// `erf(x) = 2/√π · exp(−x²) · Σ_n 2ⁿ x²ⁿ⁺¹ / (2n+1)!!` (Abramowitz & Stegun 7.1.6): all terms of one sign, so nothing cancels.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum(); // 1 − erf(6) is below 2⁻⁵³
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}
