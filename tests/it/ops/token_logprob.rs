//! Head and softmax.

use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

use super::{Case, Gradient, Input, ROWS, Random, all_backends, bits, check_backends, check_gradient, start};

const TEMPERATURES: [f32; 4] = [1.0, 0.6, 1.7, 0.9];

fn temperatures(backend: &dyn Backend, rows: usize) -> Tensor {
    let values: Vec<f32> = TEMPERATURES.into_iter().cycle().take(rows).collect();
    backend.upload(Host::F32(&values), &[rows], Dtype::F32)
}

/// The tempered log-probabilities are what is differentiated.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(17);
    let mut cases = vec![];
    for (rows, (dim, vocab), trained) in ROWS.into_iter().flat_map(|rows| {
        [(5, 1), (3, 7), (37, 131)].into_iter().flat_map(move |size| [true, false].map(|t| (rows, size, t)))
    }) {
        let targets = random.indices(rows, vocab);
        let targets_back = targets.clone();
        cases.push(Case {
            name: format!("token_logprob [{rows}, {dim}], vocabulary {vocab}, trained {trained}"),
            inputs: vec![Input::activation(&mut random, &[rows, dim]), Input::parameter(&mut random, &[vocab, dim])],
            // The logits' roundings, up to 1.7 times as large after the temperature.
            chain: 3 * (dim + vocab).max(rows),
            differentiable: 1,
            forward: Box::new(move |backend, x| {
                let (targets, temperatures) = (backend.indices(&targets), temperatures(backend, rows));
                let found = backend.token_logprob_forward(&x[0], &x[1], &targets, &temperatures);
                vec![found.tempered, found.raw, found.lse_raw, found.lse_tempered, found.entropy]
            }),
            backward: Box::new(move |backend, x, dy| {
                let (targets, temperatures) = (backend.indices(&targets_back), temperatures(backend, rows));
                let lse = backend.token_logprob_forward(&x[0], &x[1], &targets, &temperatures).lse_tempered;
                let mut dw = trained.then(|| start(backend, x[1].shape(), Dtype::F32));
                let (h, w) = (&x[0], &x[1]);
                let dh = backend.token_logprob_backward(&dy[0], h, w, &targets, &temperatures, &lse, dw.as_mut());
                vec![Some(Gradient::New(dh)), dw.map(Gradient::Added)]
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

#[test]
fn at_temperature_one_tempered_is_raw_to_the_bit() {
    for backend in all_backends() {
        let mut random = Random::new(18);
        let h = Input::activation(&mut random, &[9, 37]).upload(&*backend);
        let w = Input::parameter(&mut random, &[131, 37]).upload(&*backend);
        let targets = backend.indices(&random.indices(9, 131));
        let ones = backend.upload(Host::F32(&[1.0; 9]), &[9], Dtype::F32);
        let found = backend.token_logprob_forward(&h, &w, &targets, &ones);
        assert_eq!(bits(&*backend, &found.raw), bits(&*backend, &found.tempered), "{}", backend.name());
        assert_eq!(bits(&*backend, &found.lse_raw), bits(&*backend, &found.lse_tempered), "{}", backend.name());
    }
}
