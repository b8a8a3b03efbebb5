//! LayerNorm with the residual addition.

use thyme_engine::ops::Dtype;

use super::{Case, Gradient, Input, ROWS, Random, check_backends, check_gradient, start};

/// Large enough to show, and to keep small rows smooth.
const EPSILON: f32 = 0.5;

/// With the residual addition or without, with gradients of weight and bias or without.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(3);
    let mut cases = vec![];
    for (rows, dim) in ROWS.into_iter().flat_map(|rows| [5, 64, 131].map(|dim| (rows, dim))) {
        for (add, trained) in [(false, true), (true, true), (true, false)] {
            let mut inputs = vec![
                Input::activation(&mut random, &[rows, dim]),
                Input::parameter(&mut random, &[dim]),
                Input::parameter(&mut random, &[dim]),
            ];
            if add {
                inputs.push(Input::activation(&mut random, &[rows, dim]));
            }
            cases.push(Case {
                name: format!("layer_norm [{rows}, {dim}], add {add}, trained {trained}"),
                inputs,
                chain: dim.max(rows),
                differentiable: if add { 2 } else { 1 },
                forward: Box::new(|backend, x| {
                    let normed = backend.layer_norm_forward(&x[0], x.get(3), &x[1], &x[2], EPSILON);
                    [Some(normed.y), normed.sum, Some(normed.mean), Some(normed.rstd)].into_iter().flatten().collect()
                }),
                backward: Box::new(move |backend, x, dy| {
                    let normed = backend.layer_norm_forward(&x[0], x.get(3), &x[1], &x[2], EPSILON);
                    let h = normed.sum.as_ref().unwrap_or(&x[0]);
                    let parameter = || trained.then(|| start(backend, x[1].shape(), Dtype::F32));
                    let (mut dw, mut db) = (parameter(), parameter());
                    let dwb = dw.as_mut().zip(db.as_mut());
                    let (mean, rstd) = (&normed.mean, &normed.rstd);
                    let dh = backend.layer_norm_backward(&dy[0], dy.get(1), h, &x[1], mean, rstd, dwb);
                    let dadd = add.then(|| Gradient::New(backend.duplicate(&dh)));
                    vec![Some(Gradient::New(dh)), dw.map(Gradient::Added), db.map(Gradient::Added), dadd]
                }),
            });
        }
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
