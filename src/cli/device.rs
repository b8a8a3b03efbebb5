//! The one place that names a backend.

use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;

use crate::cpu::simd::Simd;
use crate::cpu::{self, Cpu};
use crate::cuda::device::gpu::Gpu;
use crate::cuda::device::simt::{Simt, SimtOptions};
use crate::cuda::kernels::COMPILED;
use crate::cuda::{self, Cuda};
use crate::model::config::Config;
use crate::model::footprint::weights_bytes;
use crate::model::parameters::Layout;
use crate::ops::{Backend, Footprint};
use crate::telemetry::gpu_sensors::GpuSensors;
use crate::telemetry::memory::{available_bytes, readable_bytes};

/// Where to compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Device {
    /// The CPU; a GPU is used when it is asked for.
    #[default]
    Auto,
    /// The CPU, with kernels of its own.
    Cpu,
    /// The first NVIDIA GPU of CUDA_VISIBLE_DEVICES.
    Cuda,
    /// The CUDA kernels, run by the CPU thread by thread: slow, to try them without a GPU.
    Simt,
}

impl Device {
    /// What tensors take there.
    pub fn footprint(self) -> Footprint {
        match self {
            Device::Auto | Device::Cpu => cpu::FOOTPRINT,
            Device::Cuda | Device::Simt => cuda::FOOTPRINT,
        }
    }

    /// Opens it; of a GPU this makes the context.
    pub fn open(self) -> anyhow::Result<Opened> {
        let gpu = (self == Device::Cuda).then(|| Gpu::new(0).map(Arc::new)).transpose().context("--device cuda")?;
        // Without NVML a run has no sensors, and is none the worse.
        let gpu_sensors = gpu.as_ref().and_then(|gpu| GpuSensors::open(&gpu.pci_bus_id().ok()?).ok());
        Ok(Opened { device: self, gpu, gpu_sensors: gpu_sensors.map(Arc::new) })
    }

    /// Its backend, for a model that it can run and a run that was not planned: of a GPU's memory it takes most.
    pub fn backend(self, config: &Config) -> anyhow::Result<Arc<dyn Backend>> {
        let opened = self.open()?;
        let free = opened.gpu.as_ref().map(|gpu| gpu.free_bytes()).transpose().context("--device cuda")?;
        opened.backend(config, free.map_or(0, |free| free / 100 * UNPLANNED_PERCENT))
    }
}

/// The share of a GPU's free memory that an unplanned run takes.
const UNPLANNED_PERCENT: u64 = 90;

/// A device that was opened.
pub struct Opened {
    device: Device,
    gpu: Option<Arc<Gpu>>,
    /// The GPU's sensors.
    pub gpu_sensors: Option<Arc<GpuSensors>>,
}

impl Opened {
    /// Memory that nobody uses yet, where the device says so.
    pub fn available_bytes(&self) -> anyhow::Result<Option<u64>> {
        match &self.gpu {
            // The driver wants a little for itself.
            Some(gpu) => Ok(Some(gpu.free_bytes().context("--device cuda")? / 100 * 99)),
            None => Ok(available_bytes()),
        }
    }

    /// The device's backend, for a model that it can run, `arena` bytes of memory taken at once where the backend counts its memory.
    pub fn backend(&self, config: &Config, arena: u64) -> anyhow::Result<Arc<dyn Backend>> {
        if matches!(self.device, Device::Cuda | Device::Simt) {
            let vision = config.vision.as_ref().map(|vision| ("vision", vision.head_layout().head_dim));
            for (part, dim) in [("language", config.heads.head_dim)].into_iter().chain(vision) {
                anyhow::ensure!(
                    dim.is_multiple_of(16) && (16..=128).contains(&dim),
                    "the heads of the {part} model are {dim} wide; the CUDA kernels take multiples of 16 up to 128: use --device cpu"
                );
            }
        }
        let (needed, available) = (weights_bytes(&Layout::new(config)), self.available_bytes()?);
        if let Some(available) = available.filter(|available| needed > u128::from(*available)) {
            anyhow::bail!(
                "config.json describes weights of {}, and {} of memory are available: take it from the checkpoint again, or use a machine \
                 with more memory",
                readable_bytes(needed),
                readable_bytes(available.into())
            );
        }
        match (self.device, &self.gpu) {
            (Device::Simt, _) => {
                let simt = Simt::new(SimtOptions::fast()).context("--device simt")?;
                Ok(Arc::new(Cuda::with_arena(Arc::new(simt), arena).context("--device simt")?))
            }
            (_, Some(gpu)) => Ok(Arc::new(Cuda::with_arena(gpu.clone(), arena).context("--device cuda")?)),
            (_, None) => Ok(Arc::new(Cpu::new())),
        }
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
