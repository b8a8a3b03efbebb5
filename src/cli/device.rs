//! The one place that names a backend.

use std::sync::Arc;

use clap::ValueEnum;

use crate::cpu::Cpu;
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
