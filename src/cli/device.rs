//! The one place that names a backend.

use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;

use crate::cpu::Cpu;
use crate::cpu::simd::Simd;
use crate::cuda::Cuda;
use crate::cuda::device::gpu::Gpu;
use crate::cuda::device::simt::{Simt, SimtOptions};
use crate::cuda::kernels::COMPILED;
use crate::model::config::Config;
use crate::ops::Backend;
use crate::recipe::memory::available_bytes;

/// Where to compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Device {
    /// The CPU; a GPU is used when it is asked for.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first NVIDIA GPU of CUDA_VISIBLE_DEVICES.
    Cuda,
    /// The CUDA kernels, run by the CPU thread by thread: slow, to try them without a GPU.
    Simt,
}

impl Device {
    /// Bytes of an activation there.
    pub fn activation_bytes(self) -> usize {
        match self {
            Device::Auto | Device::Cpu => size_of::<f32>(),
            Device::Cuda | Device::Simt => size_of::<half::bf16>(),
        }
    }

    /// Memory that nobody uses yet, where the device says so.
    pub fn available_bytes(self) -> anyhow::Result<Option<u64>> {
        Ok(match self {
            Device::Cuda => Some(Gpu::new(0).and_then(|gpu| gpu.free_bytes()).context("--device cuda")?),
            Device::Auto | Device::Cpu | Device::Simt => available_bytes(),
        })
    }

    /// Its backend, for a model that it can run.
    pub fn backend(self, config: &Config) -> anyhow::Result<Arc<dyn Backend>> {
        if matches!(self, Device::Cuda | Device::Simt) {
            for (part, dim) in [("language", config.heads.head_dim), ("vision", config.vision.head_layout().head_dim)] {
                anyhow::ensure!(
                    dim.is_multiple_of(16) && (16..=128).contains(&dim),
                    "the heads of the {part} model are {dim} wide; the CUDA kernels take multiples of 16 up to 128: use --device cpu"
                );
            }
        }
        Ok(match self {
            Device::Auto | Device::Cpu => Arc::new(Cpu::new()),
            Device::Cuda => Arc::new(Cuda::new(Arc::new(Gpu::new(0).context("--device cuda")?))),
            Device::Simt => Arc::new(Cuda::new(Arc::new(Simt::new(SimtOptions::fast()).context("--device simt")?))),
        })
    }
}

/// The kernels that this machine gets, in words.
pub fn kernels() -> String {
    let cpu = match Simd::available().len() {
        3 => "cpu, on AVX-512",
        2 => "cpu, on AVX2 and FMA",
        _ => "cpu, portable: about ten times slower than with AVX2; use a machine with AVX2 for training",
    };
    format!("{cpu}; CUDA kernels: {COMPILED}")
}

/// The GPU, in words.
pub fn gpu() -> String {
    match Gpu::new(0) {
        Ok(gpu) => format!("{}; use it with --device cuda", crate::cuda::device::Device::description(&gpu)),
        Err(error) => format!("none that can be used: {error}"),
    }
}

/// Runs a command's computation on the worker pool itself: its parallel ops then share their work from where they stand, where a thread
/// outside would sleep and be woken at each.
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
