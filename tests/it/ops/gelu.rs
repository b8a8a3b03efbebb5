//! GELU in two forms.

use thyme_engine::ops::gelu::GeluForm;
use thyme_engine::ops::{Dtype, Host};

use super::{Case, Gradient, Input, ROWS, Random, all_backends, check_backends, check_gradient, tolerance};

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(5);
    let forms = [GeluForm::Erf, GeluForm::Quick];
    let sizes = ROWS.into_iter().flat_map(|rows| forms.map(|form| (rows, form)));
    let case = |(rows, form): (usize, GeluForm)| Case {
        name: format!("gelu {form:?} [{rows}, 37]"),
        inputs: vec![Input::activation(&mut random, &[rows, 37])],
        chain: 1,
        differentiable: 1,
        forward: Box::new(move |backend, x| vec![backend.gelu_forward(&x[0], form)]),
        backward: Box::new(move |backend, x, dy| vec![Some(Gradient::New(backend.gelu_backward(&dy[0], &x[0], form)))]),
    };
    sizes.map(case).collect()
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}

/// `Φ` from tables of the normal distribution (Abramowitz & Stegun, table 26.1).
#[test]
fn erf_form_is_x_times_the_normal_distribution() {
    for backend in all_backends() {
        let x = backend.upload(Host::F32(&[0.0, 1.0, -1.0, 3.0, -3.0, 40.0, -40.0]), &[7], Dtype::Activation);
        let y = backend.to_f32(&backend.gelu_forward(&x, GeluForm::Erf));
        let expected = [0.0f32, 0.841_344_8, -0.158_655_25, 2.995_950_3, -0.004_049_69, 40.0, 0.0];
        for (y, expected) in y.iter().zip(expected) {
            // As good as f32 allows, or as the output's own rounding does.
            let allowed = match backend.name() {
                "simt" | "gpu" => tolerance(backend.name(), Dtype::Activation, 1) as f32 * expected.abs(),
                _ => 5e-7,
            };
            assert!((y - expected).abs() <= allowed, "{}: {y}, not {expected}", backend.name());
        }
    }
}
