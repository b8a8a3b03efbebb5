//! The tensor cores' model against tensor cores, on a machine that has them: where no approximate instruction stands between, a result of
//! the host is the GPU's to the bit.

use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Architecture, Simt, SimtOptions};
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
