//! The tensor cores' model against tensor cores, on a machine that has them: where no approximate instruction stands between, a result of
//! the host is the GPU's to the bit.

use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Architecture, Simt, SimtOptions};
use thyme_engine::ops::adamw::{Adamw, AdamwParameter, AdamwStep, Moment};
use thyme_engine::ops::gelu::GeluForm;
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::{Backend, Buffers, Dtype, Host};

use crate::ops::{Random, gpu};

/// Bits of products of all three kinds, with factors of very different sizes.
fn products(cuda: &Cuda, [rows, columns, inner]: [usize; 3]) -> Vec<u32> {
    let mut random = Random::new(60);
    let mut factor = |rows: usize, columns: usize, dtype| {
        let values: Vec<f32> = random
            .normals(2 * rows * columns)
            .chunks_exact(2)
            .map(|pair| (pair[0] * (4.0 * pair[1]).exp2()) as f32)
            .collect();
        cuda.upload(Host::F32(&values), &[rows, columns], dtype)
    };
    let x = factor(rows, inner, Dtype::Activation);
    let dy = factor(rows, columns, Dtype::Activation);
    let w = factor(columns, inner, Dtype::Bf16);
    let mut dw = cuda.zeros(&[columns, inner], Dtype::F32);
    cuda.linear_backward_weight(&dy, &x, &mut dw, None);
    let results = [cuda.linear_forward(&x, &w, None), cuda.linear_backward_input(&dy, &w), dw];
    let backend: &dyn Backend = cuda;
    results.iter().flat_map(|result| backend.to_f32(result)).map(f32::to_bits).collect()
}

#[test]
fn the_tensor_cores_round_as_their_model_says() {
    let Some(gpu) = gpu() else { return };
    let Some(architecture) = Architecture::of(gpu.target()) else { return };
    let options = SimtOptions { architecture, ..SimtOptions::fast() };
    let host = Cuda::new(Arc::new(Simt::new(options).unwrap()));
    for sizes in [[1, 64, 64], [7, 33, 40], [64, 128, 512], [130, 96, 1200]] {
        assert!(products(&host, sizes) == products(&gpu, sizes), "{sizes:?} on {}", gpu.description());
    }
}

/// Bits of what divides, takes roots and exponentials in vectors, each with an element that is far from the others here and there.
fn vectors(cuda: &Cuda) -> Vec<u32> {
    const SHAPE: [usize; 2] = [16, 512];
    let mut random = Random::new(61);
    let mut values = |count: usize| -> Vec<f32> {
        let mut values: Vec<f32> = random.normals(count).iter().map(|x| (*x * 5.0) as f32).collect();
        let far = [0.0, -0.0, 1e-30, 79.0, -81.0, 1e20, -1e-39];
        values.iter_mut().step_by(61).zip(far.into_iter().cycle()).for_each(|(value, far)| *value = far);
        values
    };
    let backend: &dyn Backend = cuda;
    let mut activation = |cols: usize| cuda.upload(Host::F32(&values(16 * cols)), &[16, cols], Dtype::Activation);
    let (x, gate_up, dy) = (activation(512), activation(1024), activation(512));
    let w = cuda.upload(Host::F32(&values(512)), &[512], Dtype::Bf16);
    let mut results = vec![backend.swiglu_forward(&gate_up), backend.swiglu_backward(&dy, &gate_up)];
    for form in [GeluForm::Erf, GeluForm::Quick] {
        results.extend([backend.gelu_forward(&x, form), backend.gelu_backward(&dy, &x, form)]);
    }
    results
        .extend([backend.rms_norm_forward(&x, None, &w, 1e-6).y, backend.layer_norm_forward(&x, None, &w, &w, 1e-6).y]);
    for zeros in [Moment::zeros, Moment::zeros_8bit] {
        let mut parameter = cuda.upload(Host::F32(&values(16 * 512)), &SHAPE, Dtype::Bf16);
        let mut remainder = cuda.zeros(&SHAPE, Dtype::I16);
        let [mut m, mut v] = [zeros(backend, &SHAPE), zeros(backend, &SHAPE)];
        for number in 1..=3 {
            let dw = cuda.upload(Host::F32(&values(16 * 512)), &SHAPE, Dtype::F32);
            let step = AdamwStep {
                learning_rate: 1e-3,
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-8,
                step: number,
                gradient_scale: 0.7,
            };
            let (w, remainder, m, v) = (&mut parameter, &mut remainder, &mut m, &mut v);
            cuda.adamw(&mut [AdamwParameter { w, remainder, m, v, dw: &dw, weight_decay: 0.1 }], &step);
        }
        results.push(parameter);
        results.extend([m, v].into_iter().flat_map(|moment| moment.scales.or(Some(moment.values))));
    }
    results.iter().flat_map(|result| backend.to_f32(result)).map(f32::to_bits).collect()
}

#[test]
fn vectors_are_divided_and_rooted_to_the_bit() {
    let Some(gpu) = gpu() else { return };
    let host = Cuda::new(Arc::new(Simt::new(SimtOptions::fast()).unwrap()));
    assert!(vectors(&gpu) == vectors(&host));
}
