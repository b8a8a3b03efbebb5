//! Head and softmax.

use thyme_engine::ops::token_logprob::EntropyGradient;
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};

use super::{Case, Gradient, Input, ROWS, Random, all_backends, bits, check_backends, check_gradient, start};

const TEMPERATURES: [f32; 4] = [1.0, 0.6, 1.7, 0.9];

fn temperatures(backend: &dyn Backend, rows: usize) -> Tensor {
    let values: Vec<f32> = TEMPERATURES.into_iter().cycle().take(rows).collect();
    backend.upload(Host::F32(&values), &[rows], Dtype::F32)
}

/// The log-probabilities at a temperature are what is differentiated, and the entropies where the head is trained.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(17);
    let mut cases = vec![];
    for (rows, (dim, vocab), trained) in ROWS.into_iter().flat_map(|rows| {
        [(5, 1), (3, 7), (37, 131)].into_iter().flat_map(move |size| [true, false].map(|t| (rows, size, t)))
    }) {
        let excluded: Vec<u32> = if vocab == 131 { vec![130, 64] } else { Vec::new() };
        let allowed: Vec<i32> = (0..vocab as i32).filter(|id| !excluded.contains(&(*id as u32))).collect();
        let targets: Vec<i32> =
            random.indices(rows, allowed.len()).into_iter().map(|place| allowed[place as usize]).collect();
        let excluded_back = excluded.clone();
        let targets_back = targets.clone();
        cases.push(Case {
            name: format!("token_logprob [{rows}, {dim}], vocabulary {vocab}, trained {trained}"),
            inputs: vec![Input::activation(&mut random, &[rows, dim]), Input::parameter(&mut random, &[vocab, dim])],
            // The logits' roundings, up to 1.7 times as large after the temperature.
            chain: 3 * (dim + vocab).max(rows),
            differentiable: if trained { 2 } else { 1 },
            forward: Box::new(move |backend, x| {
                let (targets, temperatures) = (backend.indices(&targets), temperatures(backend, rows));
                let found = backend.token_logprob_forward(&x[0], &x[1], &targets, &temperatures, &excluded);
                vec![
                    found.logprob_at_temperature,
                    found.entropy,
                    found.logprob,
                    found.lse_raw,
                    found.lse_at_temperature,
                ]
            }),
            backward: Box::new(move |backend, x, dy| {
                let (targets, temperatures) = (backend.indices(&targets_back), temperatures(backend, rows));
                let excluded = &excluded_back;
                let (h, w) = (&x[0], &x[1]);
                let found = backend.token_logprob_forward(h, w, &targets, &temperatures, excluded);
                let mut dw = trained.then(|| start(backend, w.shape(), Dtype::F32));
                let (lse, lse_raw, entropy) = (&found.lse_at_temperature, &found.lse_raw, &found.entropy);
                let of_entropy = trained.then(|| EntropyGradient { dentropy: &dy[1], entropy, lse_raw });
                let (dlogprob, dw_added) = (&dy[0], dw.as_mut());
                let dh = backend.token_logprob_backward(
                    dlogprob,
                    h,
                    w,
                    &targets,
                    &temperatures,
                    lse,
                    excluded,
                    of_entropy,
                    dw_added,
                );
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
fn at_temperature_one_both_log_probabilities_are_the_same_to_the_bit() {
    for backend in all_backends() {
        let mut random = Random::new(18);
        let h = Input::activation(&mut random, &[9, 37]).upload(&*backend);
        let w = Input::parameter(&mut random, &[131, 37]).upload(&*backend);
        let targets = backend.indices(&random.indices(9, 131));
        let ones = backend.upload(Host::F32(&[1.0; 9]), &[9], Dtype::F32);
        let found = backend.token_logprob_forward(&h, &w, &targets, &ones, &[]);
        assert_eq!(
            bits(&*backend, &found.logprob),
            bits(&*backend, &found.logprob_at_temperature),
            "{}",
            backend.name()
        );
        assert_eq!(bits(&*backend, &found.lse_raw), bits(&*backend, &found.lse_at_temperature), "{}", backend.name());
    }
}

/// Each token in turn as the target of one row, whose excluded tokens have nearly all the mass.
#[test]
fn probabilities_at_a_temperature_sum_to_one_without_the_excluded_tokens_and_teach_them_nothing() {
    const VOCAB: usize = 21;
    let excluded = [20, 3];
    for backend in all_backends() {
        let mut random = Random::new(19);
        let mut values: Vec<f32> = random.normals(VOCAB * 4).iter().map(|x| *x as f32).collect();
        for token in excluded {
            values[token as usize * 4..][..4].fill(8.0);
        }
        let h = backend.upload(Host::F32(&[1.0; VOCAB * 4]), &[VOCAB, 4], Dtype::Activation);
        let w = backend.upload(Host::F32(&values), &[VOCAB, 4], Dtype::Bf16);
        let targets = backend.indices(&Vec::from_iter(0..VOCAB as i32));
        for temperature in [1.0, 0.5] {
            let temperatures = backend.upload(Host::F32(&[temperature; VOCAB]), &[VOCAB], Dtype::F32);
            let found = backend.token_logprob_forward(&h, &w, &targets, &temperatures, &excluded);
            let sum = |logprobs: &[f32]| logprobs.iter().map(|logprob| f64::from(*logprob).exp()).sum::<f64>();
            let (logprob, logprob_at_temperature) =
                (backend.to_f32(&found.logprob), backend.to_f32(&found.logprob_at_temperature));
            assert!(
                (sum(&logprob_at_temperature) - 1.0).abs() < 1e-5 && (sum(&logprob) - 1.0).abs() < 1e-5,
                "{}",
                backend.name()
            );
            let of_excluded = |logprobs: &[f32]| excluded.map(|token| logprobs[token as usize]);
            assert_eq!(of_excluded(&logprob_at_temperature), [f32::NEG_INFINITY; 2], "{}", backend.name());
            assert!(of_excluded(&logprob).iter().all(|logprob| *logprob > -1.0), "{}: {logprob:?}", backend.name());

            let ones = backend.upload(Host::F32(&[1.0; VOCAB]), &[VOCAB], Dtype::F32);
            let mut dw = backend.zeros(&[VOCAB, 4], Dtype::F32);
            let lse = &found.lse_at_temperature;
            backend.token_logprob_backward(&ones, &h, &w, &targets, &temperatures, lse, &excluded, None, Some(&mut dw));
            let dw = backend.to_f32(&dw);
            for (token, dw) in dw.chunks_exact(4).enumerate() {
                let is_zero = dw.iter().all(|dw| *dw == 0.0);
                assert_eq!(is_zero, excluded.contains(&(token as u32)), "{} {token}: {dw:?}", backend.name());
            }
        }
    }
}
