//! Captured runs of kernels, and which kernels were launched.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaGraph;
use cudarc::driver::result::DriverError;

use super::super::DeviceError;
use super::driver::failed;

/// Names of kernels, shared with the graphs that launch them.
pub type Launched = Arc<Mutex<BTreeSet<&'static str>>>;

/// A captured run of kernels.
pub struct Graph {
    pub(super) graph: CudaGraph,
    pub(super) kernels: BTreeSet<&'static str>,
    pub(super) launched: Launched,
}

// SAFETY: a handle that any thread may use once the context is bound to it, which a launch does. Whoever launches holds the backend's
// one stream of work: the engine, on one thread.
unsafe impl Send for Graph {}
// SAFETY: as above; launching does not change the graph.
unsafe impl Sync for Graph {}

impl Graph {
    /// Launches all of it.
    pub fn launch(&self) -> Result<(), DeviceError> {
        lock(&self.launched).extend(&self.kernels);
        self.graph.launch().map_err(|e| fault(&self.launched, "launching a graph", e))
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph of {:?}", self.kernels)
    }
}

/// What a call's error says: its own, or that of a kernel launched before it.
pub fn fault(launched: &Launched, what: &str, error: DriverError) -> DeviceError {
    // 700 to 799 but for 701 are the faults of running kernels; the context is of no more use after one.
    let code = error.0 as u32;
    if !(700..800).contains(&code) || code == 701 {
        return failed(what, error);
    }
    let names: Vec<&str> = lock(launched).iter().copied().collect();
    let names = names.join(", ");
    DeviceError::Fault(format!(
        "the GPU stopped with {error:?}; at fault is one of the kernels launched since the last wait: {names}. Checkpoints are as they \
         were; compute-sanitizer finds the access"
    ))
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
