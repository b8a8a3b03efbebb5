//! Matrix products with a parameter.

use thyme_engine::ops::Dtype;

use super::{Case, Gradient, Input, ROWS, Random, check_backends, check_gradient, start};

pub fn cases() -> Vec<Case> {
    let mut random = Random::new(1);
    let mut cases = vec![];
    for (rows, (inner, columns), bias) in ROWS.into_iter().flat_map(|rows| {
        [(3, 1), (1, 4), (64, 5), (257, 70), (72, 40)]
            .into_iter()
            .flat_map(move |size| [false, true].map(|b| (rows, size, b)))
    }) {
        let mut inputs =
            vec![Input::activation(&mut random, &[rows, inner]), Input::parameter(&mut random, &[columns, inner])];
        if bias {
            inputs.push(Input::parameter(&mut random, &[columns]));
        }
        cases.push(Case {
            name: format!("linear [{rows}, {inner}] to {columns}, bias {bias}"),
            inputs,
            chain: inner.max(columns).max(rows),
            differentiable: 1,
            forward: Box::new(|backend, x| vec![backend.linear_forward(&x[0], &x[1], x.get(2))]),
            backward: Box::new(|backend, x, dy| {
                let dx = backend.linear_backward_input(&dy[0], &x[1]);
                let mut dw = start(backend, x[1].shape(), Dtype::F32);
                let mut db = x.get(2).map(|b| start(backend, b.shape(), Dtype::F32));
                backend.linear_backward_weight(&dy[0], &x[0], &mut dw, db.as_mut());
                vec![Some(Gradient::New(dx)), Some(Gradient::Added(dw)), db.map(Gradient::Added)]
            }),
        });
    }
    cases
}

#[test]
fn its_gradient_is_that_of_finite_differences() {
    cases().iter().for_each(check_gradient);
}

#[test]
fn every_backend_agrees_with_the_reference() {
    cases().iter().for_each(check_backends);
}
