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

/// Gates of one vector with one among them that takes another way through division and exponential: 0, tiny, far.
#[test]
fn a_gate_has_the_same_bits_beside_any_other() {
    use thyme_engine::ops::{Dtype, Host};
    const WIDTH: usize = 64;
    for backend in super::all_backends() {
        let mut random = Random::new(6);
        let gate_up: Vec<f32> = random.normals(2 * WIDTH).iter().map(|x| 4.0 * *x as f32).collect();
        let dy = backend.upload(Host::F32(&[1.5; WIDTH]), &[1, WIDTH], Dtype::Activation);
        let bits = |gate_up: &[f32]| {
            let gate_up = backend.upload(Host::F32(gate_up), &[1, 2 * WIDTH], Dtype::Activation);
            let (y, d) = (backend.swiglu_forward(&gate_up), backend.swiglu_backward(&dy, &gate_up));
            (super::bits(&*backend, &y), super::bits(&*backend, &d))
        };
        let (y, d) = bits(&gate_up);
        for other in [0.0, -0.0, 1e-30, -1e-38, 81.0, -90.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut beside = gate_up.clone();
            beside[..WIDTH].iter_mut().skip(3).step_by(8).for_each(|gate| *gate = other);
            let (beside_y, beside_d) = bits(&beside);
            for i in (0..WIDTH).filter(|i| i % 8 != 3) {
                let (found, expected) = ([beside_y[i], beside_d[i], beside_d[WIDTH + i]], [y[i], d[i], d[WIDTH + i]]);
                assert_eq!(found, expected, "{}: gate {} beside {other}", backend.name(), gate_up[i]);
            }
        }
    }
}
