//! Moving and adding whole rows.

use thyme_engine::ops::{Dtype, Host};

use super::{Case, Gradient, Input, ROWS, Random, all_backends, check_backends, check_gradient};

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(7);
    let case = |count: usize| {
        let index = random.indices(count, 9);
        let index_back = index.clone();
        Case {
            name: format!("gather {count} of 9 rows"),
            inputs: vec![Input::activation(&mut random, &[9, 5])],
            chain: count,
            differentiable: 1,
            forward: Box::new(move |backend, x| vec![backend.gather_rows(&x[0], &backend.indices(&index))]),
            backward: Box::new(move |backend, _, dy| {
                vec![Some(Gradient::New(backend.gather_rows_backward(&dy[0], &backend.indices(&index_back), 9)))]
            }),
        }
    };
    ROWS.into_iter().map(case).collect()
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
fn add_adds_in_place() {
    for backend in all_backends() {
        let values: Vec<f32> = (0..35).map(|i| i as f32).collect();
        let mut x = backend.upload(Host::F32(&values), &[7, 5], Dtype::Activation);
        let y = backend.upload(Host::F32(&[0.5; 35]), &[7, 5], Dtype::Activation);
        backend.add(&mut x, &y);
        let expected: Vec<f32> = values.iter().map(|x| x + 0.5).collect();
        assert_eq!(backend.to_f32(&x), expected, "{}", backend.name());
    }
}
