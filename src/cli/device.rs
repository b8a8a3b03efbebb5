//! The one place that names a backend.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use half::bf16;

use super::isolated::THIS_PROGRAM;
use crate::cpu::simd::Simd;
use crate::cpu::{self, Cpu};
use crate::cuda::device::DeviceError;
use crate::cuda::device::gpu::Gpu;
use crate::cuda::device::recorder::{Noted, Recorder};
use crate::cuda::device::simt::{Simt, SimtOptions};
use crate::cuda::device::tensor_core::TensorCore;
use crate::cuda::kernels::COMPILED;
use crate::cuda::{self, Cuda};
use crate::device_check::check::{FAILED, Launched, Product, Sizes, Subject};
use crate::device_check::record::{Identity, Verdict, take_if_proven};
use crate::files::cache::cache_folder;
use crate::model::config::Config;
use crate::model::footprint::weights_bytes;
use crate::model::parameters::Layout;
use crate::ops::Backend;
use crate::ops::footprint::Footprint;
use crate::reference::Reference;
use crate::telemetry::gpu_sensors::GpuSensors;
use crate::telemetry::memory::{available_bytes, readable_bytes};

/// Where to compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Device {
    /// A GPU that has passed its check (`thyme-engine doctor`), which is made at its first use; else the CPU.
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
    /// Opens it, for a model that it can run; of a GPU this makes the context. What `auto` is, is decided here.
    pub fn open(self, config: &Config) -> anyhow::Result<Opened> {
        let place = match self {
            Device::Auto => automatic(config),
            Device::Cpu => Place::Cpu,
            Device::Cuda => {
                check_heads(config)?;
                let gpu = Arc::new(Gpu::new(0).context("--device cuda")?);
                warn_unless_proven(&gpu);
                Place::Gpu(gpu)
            }
            Device::Simt => {
                check_heads(config)?;
                Place::Simt
            }
        };
        let gpu_sensors = match &place {
            Place::Gpu(gpu) => sensors(gpu).map(Arc::new),
            Place::Cpu | Place::Simt => None,
        };
        Ok(Opened { place, gpu_sensors })
    }

    /// Its backend, for a run that was not planned: of a GPU's memory it takes most.
    pub fn backend(self, config: &Config) -> anyhow::Result<Arc<dyn Backend>> {
        self.open(config)?.unplanned_backend(config)
    }
}

/// The share of a GPU's free memory that an unplanned run takes.
const UNPLANNED_PERCENT: u64 = 90;

/// A device that was opened.
pub struct Opened {
    place: Place,
    /// The GPU's sensors.
    pub gpu_sensors: Option<Arc<GpuSensors>>,
}

/// Where an opened device computes.
enum Place {
    Cpu,
    Simt,
    Gpu(Arc<Gpu>),
}

impl Opened {
    /// What tensors take there.
    pub fn footprint(&self) -> Footprint {
        match self.place {
            Place::Cpu => cpu::FOOTPRINT,
            Place::Simt | Place::Gpu(_) => cuda::FOOTPRINT,
        }
    }

    /// Memory that nobody uses yet, where the device says so.
    pub fn available_bytes(&self) -> anyhow::Result<Option<u64>> {
        match &self.place {
            // The driver wants a little for itself.
            Place::Gpu(gpu) => Ok(Some(gpu.free_bytes().context("the GPU")? / 100 * 99)),
            Place::Cpu | Place::Simt => Ok(available_bytes()),
        }
    }

    /// The device's backend for a run that was not planned.
    pub fn unplanned_backend(&self, config: &Config) -> anyhow::Result<Arc<dyn Backend>> {
        let free = match &self.place {
            Place::Gpu(gpu) => gpu.free_bytes().context("the GPU")?,
            Place::Cpu | Place::Simt => 0,
        };
        self.backend(config, free / 100 * UNPLANNED_PERCENT)
    }

    /// The device's backend, `arena` bytes of memory taken at once where the backend counts its memory.
    pub fn backend(&self, config: &Config, arena: u64) -> anyhow::Result<Arc<dyn Backend>> {
        let (needed, available) = (weights_bytes(&Layout::new(config)), self.available_bytes()?);
        if let Some(available) = available.filter(|available| needed > u128::from(*available)) {
            anyhow::bail!(
                "config.json describes weights of {}, and {} of memory are available: take it from the checkpoint again, or use a machine \
                 with more memory",
                readable_bytes(needed),
                readable_bytes(available.into())
            );
        }
        match &self.place {
            Place::Cpu => Ok(Arc::new(Cpu::new())),
            Place::Simt => {
                let simt = Simt::new(SimtOptions::fast()).context("--device simt")?;
                Ok(Arc::new(Cuda::with_arena(Arc::new(simt), arena).context("--device simt")?))
            }
            Place::Gpu(gpu) => Ok(Arc::new(Cuda::with_arena(gpu.clone(), arena).context("the GPU")?)),
        }
    }
}

/// Refuses a model that CUDA's kernels do not take.
fn check_heads(config: &Config) -> anyhow::Result<()> {
    let vision = config.vision.as_ref().map(|vision| ("vision", vision.head_layout().head_dim));
    for (part, dim) in [("language", config.heads.head_dim)].into_iter().chain(vision) {
        anyhow::ensure!(
            dim.is_multiple_of(16) && (16..=128).contains(&dim),
            "the heads of the {part} model are {dim} wide; the CUDA kernels take multiples of 16 up to 128: use --device cpu"
        );
    }
    Ok(())
}

/// A GPU that has proved itself and takes the model, else the CPU.
fn automatic(config: &Config) -> Place {
    let on_the_cpu = |error: DeviceError| {
        // That there is none is no news.
        if !matches!(error, DeviceError::Missing(_)) {
            eprintln!("--device auto takes the CPU: {error}");
        }
        Place::Cpu
    };
    if check_heads(config).is_err() {
        return Place::Cpu;
    }
    let found = Gpu::new(0).and_then(|gpu| Ok((gpu_identity(&gpu)?, gpu)));
    let (identity, gpu) = match found {
        Ok(found) => found,
        Err(error) => return on_the_cpu(error),
    };
    let mut gpu = Some(gpu);
    let check = || {
        // A GPU may be for one process at a time.
        gpu = None;
        check_in_a_child()
    };
    if !take_if_proven(&identity, cache_folder().as_deref(), check, |line| eprintln!("{line}")) {
        return Place::Cpu;
    }
    gpu.map_or_else(|| Gpu::new(0), Ok).map_or_else(on_the_cpu, |gpu| Place::Gpu(Arc::new(gpu)))
}

/// Has the GPU checked by a process of its own: whatever comes of it, this one has all of the memory, and a context that works.
fn check_in_a_child() -> Verdict {
    let mut command = Command::new(THIS_PROGRAM);
    command.args(["doctor", "--device", "cuda"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let Ok(output) = command.output() else { return Verdict::Unchecked };
    let said = String::from_utf8_lossy(&output.stdout);
    let fault = said.lines().find(|line| line.starts_with(FAILED));
    match fault {
        Some(fault) => Verdict::Failed(fault.to_owned()),
        None if output.status.success() => Verdict::Passed,
        None => Verdict::Unchecked,
    }
}

fn warn_unless_proven(gpu: &Gpu) {
    let verdict = gpu_identity(gpu).ok().zip(cache_folder()).map(|(identity, cache)| identity.verdict(&cache));
    match verdict {
        Some(Verdict::Passed) => {}
        Some(Verdict::Failed(fault)) => {
            eprintln!("warning: this GPU failed its check ({fault}); `thyme-engine doctor --device cuda` says more");
        }
        Some(Verdict::Unchecked) | None => eprintln!(
            "warning: this GPU has not been checked with this driver and these kernels; `thyme-engine doctor --device cuda` does it"
        ),
    }
}

/// Without NVML a run has no sensors, and is none the worse.
fn sensors(gpu: &Gpu) -> Option<GpuSensors> {
    GpuSensors::open(&gpu.pci_bus_id().ok()?).ok()
}

fn gpu_identity(gpu: &Gpu) -> Result<Identity, DeviceError> {
    let driver = sensors(gpu).and_then(|sensors| sensors.driver_version());
    let driver = format!("{} for CUDA {}", driver.as_deref().unwrap_or("unknown"), gpu.driver_version()?);
    Ok(identity(gpu, gpu.uuid()?, driver))
}

fn identity(device: &dyn cuda::device::Device, uuid: String, driver: String) -> Identity {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    Identity { device: device.description(), uuid, driver, kernels: cuda::kernels::hash(), program }
}

/// Memory of the pool that is checked.
const POOL_BYTES: u64 = 256 << 20;
/// Free memory that the check of a GPU wants.
const CHECK_BYTES: u64 = 4 << 30;

/// A device to be checked.
pub struct Candidate {
    /// The device, and what it is held against.
    pub subject: Subject,
    /// It in words.
    pub description: String,
    /// Whom a record of the check is about; none for the CPU, which nobody has to trust.
    pub identity: Option<Identity>,
}

impl Device {
    /// The device as one that is checked.
    pub fn candidate(self) -> anyhow::Result<Candidate> {
        match self {
            Device::Auto => anyhow::bail!("--device auto is no device; check cuda, simt or cpu"),
            Device::Cpu => {
                let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
                let subject = Subject {
                    pooled: backend.clone(),
                    cpu: backend.clone(),
                    backend,
                    reference: Arc::new(Reference),
                    product: None,
                    launches: None,
                    sizes: Sizes::Small,
                };
                Ok(Candidate { subject, description: "the CPU".to_owned(), identity: None })
            }
            Device::Cuda => {
                let gpu = Arc::new(Gpu::new(0).context("--device cuda")?);
                let free = gpu.free_bytes().context("--device cuda")?;
                anyhow::ensure!(
                    free >= CHECK_BYTES,
                    "the check wants {} of the GPU's memory, and {} are free; end what uses it",
                    readable_bytes(CHECK_BYTES.into()),
                    readable_bytes(free.into())
                );
                let identity = gpu_identity(&gpu).context("--device cuda")?;
                Candidate::of_kernels(gpu, Sizes::Real, identity)
            }
            Device::Simt => {
                let simt = Arc::new(Simt::new(SimtOptions::fast()).context("--device simt")?);
                let identity = identity(&*simt, String::new(), String::new());
                Candidate::of_kernels(simt, Sizes::Small, identity)
            }
        }
    }
}

impl Candidate {
    /// A device that runs CUDA's kernels.
    pub fn of_kernels(
        device: Arc<dyn cuda::device::Device>,
        sizes: Sizes,
        identity: Identity,
    ) -> anyhow::Result<Candidate> {
        let (description, core) = (device.description(), TensorCore::of(device.target()));
        let recorder = Arc::new(Recorder::new(device)?);
        let pooled = Cuda::with_arena(recorder.clone(), POOL_BYTES)?;
        let backend = Cuda::new(recorder.clone());
        let launched = |noted: Noted| Launched { kernel: noted.kernel, memory: noted.memory };
        let subject = Subject {
            backend: Arc::new(backend),
            pooled: Arc::new(pooled),
            cpu: Arc::new(Cpu::new()),
            reference: Arc::new(Reference),
            product: core.map(|core| Box::new(move |a: &[bf16], b: &[bf16]| core.product(a, b)) as Product),
            launches: Some(Box::new(move || recorder.take().into_iter().map(launched).collect())),
            sizes,
        };
        Ok(Candidate { subject, description, identity: Some(identity) })
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
        Ok(gpu) => {
            let verdict = gpu_identity(&gpu).ok().zip(cache_folder()).map(|(identity, cache)| identity.verdict(&cache));
            let trust = match verdict {
                Some(Verdict::Passed) => "checked; --device auto takes it",
                Some(Verdict::Failed(_)) => "it FAILED its check; see doctor --device cuda",
                Some(Verdict::Unchecked) | None => "not checked yet; doctor --device cuda does it",
            };
            format!("{}; {trust}", cuda::device::Device::description(&gpu))
        }
        Err(error) => format!("none that can be used: {error}"),
    }
}

/// Runs a command's computation on the worker pool itself: its parallel ops then share their work from where they stand, where a thread
/// outside would sleep and be woken at each.
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
