//! The simt device: its instructions against the documented layouts and roundings, planted faults, whole models, and kernels at the sizes
//! that their tiles, vectors and chunks make special. What every backend must do is in `tests/it/ops`.

mod adamw;
mod attention;
mod card;
mod copy_pages;
mod counts;
mod embedding;
mod gelu;
mod grad_norm;
mod instructions;
mod ladder;
mod ladder_attention;
mod launch_constants;
mod launched;
mod layer_norm;
mod linear;
mod overlapped;
mod patch_embed;
mod planted;
mod policy;
mod qk_norm;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod swiglu;
mod token_logprob;

use std::sync::Arc;

use half::bf16;
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Device, Memory};
use thyme_engine::ops::{Buffers, Dtype, Host, HostMut, Tensor};
use thyme_engine::reference::Reference;

use super::ops::{Random, tolerance};

/// The production kernels, watched.
fn checked() -> Cuda {
    Cuda::new(Arc::new(Simt::new(SimtOptions::checked()).unwrap()))
}

/// The production kernels at speed.
fn fast() -> Cuda {
    Cuda::new(Arc::new(Simt::new(SimtOptions::fast()).unwrap()))
}

/// Device memory with these values in it.
fn uploaded<T: bytemuck::Pod>(device: &Arc<dyn Device>, values: &[T]) -> Memory {
    let memory = Memory::new(device, size_of_val(values)).unwrap();
    device.copy_in(memory.span(), bytemuck::cast_slice(values)).unwrap();
    memory
}

fn downloaded<T: bytemuck::Pod>(device: &Arc<dyn Device>, memory: &Memory) -> Vec<T> {
    let mut bytes = vec![0; memory.span().bytes()];
    device.copy_out(&mut bytes, memory.span()).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

/// Values of mean 0 that bf16 holds exactly.
fn exact_in_bf16(random: &mut Random, count: usize) -> Vec<f64> {
    random.normals(count).into_iter().map(|x| bf16::from_f64(x).to_f64()).collect()
}

/// The same values on both backends.
fn pair(cuda: &Cuda, values: &[f64], shape: &[usize], dtype: Dtype) -> (Tensor, Tensor) {
    (cuda.upload(Host::F64(values), shape, dtype), Reference.upload(Host::F64(values), shape, dtype))
}

fn values(backend: &dyn Buffers, tensor: &Tensor) -> Vec<f64> {
    let mut values = vec![0.0; tensor.len()];
    backend.download(tensor, HostMut::F64(&mut values));
    values
}

/// Asserts that a tensor is the reference's, within the table's tolerance.
#[track_caller]
fn expect_close(what: &str, cuda: &Cuda, found: &Tensor, expected: &Tensor, chain: usize) {
    assert_eq!(found.shape(), expected.shape(), "{what}: shape");
    let allowed = tolerance(cuda.name(), found.dtype(), chain);
    let (found, expected) = (values(cuda, found), values(&Reference, expected));
    let scale = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= allowed, "{what}[{i}]: {found}, not {expected}; {error:e} > {allowed:e}");
    }
}
