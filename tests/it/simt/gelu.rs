//! GELU on simt against the reference.

use thyme_engine::ops::gelu::{Gelu, GeluForm};
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, pair, values};

#[test]
fn gelu_agrees_with_the_reference_in_both_forms_and_directions() {
    let cuda = checked();
    let mut random = Random::new(51);
    for (rows, dim) in [(0, 8), (1, 1), (3, 37), (2, 64), (2, 1100)] {
        for form in [GeluForm::Erf, GeluForm::Quick] {
            let what = format!("gelu {form:?} [{rows}, {dim}]");
            let (x, rx) = pair(&cuda, &exact_in_bf16(&mut random, rows * dim), &[rows, dim], Dtype::Activation);
            let (dy, rdy) = pair(&cuda, &exact_in_bf16(&mut random, rows * dim), &[rows, dim], Dtype::Activation);
            let (y, ry) = (cuda.gelu_forward(&x, form), Reference.gelu_forward(&rx, form));
            expect_close(&format!("{what}: y"), &cuda, &y, &ry, 1);
            let (dx, rdx) = (cuda.gelu_backward(&dy, &x, form), Reference.gelu_backward(&rdy, &rx, form));
            expect_close(&format!("{what}: dx"), &cuda, &dx, &rdx, 1);
        }
    }
}

/// `x Φ(x)` from tables of the normal distribution (Abramowitz & Stegun, table 26.1).
#[test]
fn erf_form_follows_the_normal_distribution_into_its_tails() {
    let cuda = checked();
    let x = [0.0, 1.0, -1.0, 3.0, -3.0, 40.0, -40.0, 1e30, -1e30];
    let y = values(&cuda, &cuda.gelu_forward(&cuda.upload(Host::F32(&x), &[9], Dtype::Activation), GeluForm::Erf));
    let expected = [0.0, 0.841_344_8, -0.158_655_25, 2.995_950_3, -0.004_049_69, 40.0, 0.0, 1e30, 0.0];
    for (y, expected) in y.iter().zip(expected) {
        assert!((y - expected).abs() <= expected.abs() / 256.0, "{y}, not {expected}");
    }
}
