//! A CUDA device that has addresses and no memory: nothing is computed, and what is read is zero, so models of any size can be counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use thyme_engine::cuda::device::target::Target;
use thyme_engine::cuda::device::{Device, DeviceError, Launch, Prepared, Span, Step};

/// Addresses without memory.
#[derive(Default)]
pub struct Addresses {
    next: Mutex<u64>,
    /// Bytes taken at each address.
    pub held: Mutex<BTreeMap<u64, usize>>,
    /// Graphs captured.
    pub captures: AtomicUsize,
}

impl Device for Addresses {
    fn name(&self) -> &'static str {
        "addresses"
    }
    fn description(&self) -> String {
        "addresses without memory".to_owned()
    }
    fn target(&self) -> Target {
        Target::SM_90
    }
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let mut next = self.next.lock().unwrap();
        *next += 1 << 45;
        self.held.lock().unwrap().insert(*next, bytes);
        Ok(*next)
    }
    fn free(&self, address: u64) {
        self.held.lock().unwrap().remove(&address).expect("memory is freed once");
    }
    fn copy_in(&self, _: Span<'_>, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }
    fn copy_out(&self, to: &mut [u8], _: Span<'_>) -> Result<(), DeviceError> {
        to.fill(0);
        Ok(())
    }
    fn copy(&self, _: Span<'_>, _: Span<'_>) -> Result<(), DeviceError> {
        Ok(())
    }
    fn zero(&self, _: Span<'_>) -> Result<(), DeviceError> {
        Ok(())
    }
    fn launch(&self, _: &Launch<'_>) -> Result<(), DeviceError> {
        Ok(())
    }
    fn synchronise(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn prepare(&self, steps: Vec<Step>) -> Result<Prepared, DeviceError> {
        self.captures.fetch_add(1, Ordering::Relaxed);
        Ok(Prepared::Steps(steps))
    }
    fn time(&self, work: &mut dyn FnMut()) -> Result<f64, DeviceError> {
        work();
        Ok(0.0)
    }
}
