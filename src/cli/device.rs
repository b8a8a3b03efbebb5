//! The one place that names a backend.

use std::sync::Arc;

use clap::ValueEnum;

use crate::cpu::Cpu;
use crate::cpu::simd::Simd;
use crate::cuda::kernels::COMPILED;
use crate::ops::Backend;

/// Where to compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Device {
    /// The best there is.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
}

impl Device {
    /// Its backend.
    pub fn backend(self) -> Arc<dyn Backend> {
        match self {
            Device::Auto | Device::Cpu => Arc::new(Cpu::new()),
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

/// Runs a command's computation on the worker pool itself: its parallel ops then share their work from where they stand, where a thread
/// outside would sleep and be woken at each.
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
