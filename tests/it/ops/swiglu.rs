//! SwiGLU.

use super::{Case, Gradient, Input, ROWS, Random, check_backends, check_gradient};

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(4);
    let sizes = ROWS.into_iter().flat_map(|rows| [1, 13, 64].map(|width| (rows, width)));
    let case = |(rows, width): (usize, usize)| Case {
        name: format!("swiglu [{rows}, {width}]"),
        inputs: vec![Input::activation(&mut random, &[rows, 2 * width])],
        chain: 1,
        differentiable: 1,
        forward: Box::new(|backend, x| vec![backend.swiglu_forward(&x[0])]),
        backward: Box::new(|backend, x, dy| vec![Some(Gradient::New(backend.swiglu_backward(&dy[0], &x[0])))]),
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

#[test]
fn far_gates_shut_and_open_without_overflow() {
    use thyme_engine::ops::{Dtype, Host};
    for backend in super::all_backends() {
        let gate_up = backend.upload(Host::F32(&[-1000.0, 1000.0, 2.0, 2.0]), &[1, 4], Dtype::Activation);
        assert_eq!(backend.to_f32(&backend.swiglu_forward(&gate_up)), [0.0, 2000.0], "{}", backend.name());
        let dy = backend.upload(Host::F32(&[1.0, 1.0]), &[1, 2], Dtype::Activation);
        let dgate_up = backend.to_f32(&backend.swiglu_backward(&dy, &gate_up));
        assert_eq!(dgate_up, [0.0, 2.0, 0.0, 1000.0], "{}", backend.name());
    }
}
