//! Graph capture: the steps that some work came to, and the memory that they run in. A device that can makes one graph of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::{Arena, Reserved};
use super::device::{Device, DeviceError, Prepared, Step};
use crate::ops::{CapturedGraph, Tensor};

/// Where steps are noted instead of being done, while a graph is captured.
#[derive(Default)]
pub(super) struct GraphCapture {
    steps: Mutex<Option<Vec<Step>>>,
}

impl GraphCapture {
    /// Whether a graph is being captured.
    pub fn is_capturing(&self) -> bool {
        self.steps().is_some()
    }

    /// Notes a step; false where no graph is being captured.
    pub fn note(&self, step: impl FnOnce() -> Step) -> bool {
        let mut steps = self.steps();
        if let Some(steps) = steps.as_mut() {
            steps.push(step());
        }
        steps.is_some()
    }

    fn steps(&self) -> MutexGuard<'_, Option<Vec<Step>>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A captured graph on a device.
pub(super) struct Replay {
    device: Arc<dyn Device>,
    prepared: Prepared,
    result: Arc<Tensor>,
    /// What the steps use beside the result and what the capture was given.
    _reserved: Reserved,
}

impl Replay {
    #[track_caller]
    pub fn capture(
        graph_capture: &GraphCapture,
        device: &Arc<dyn Device>,
        arena: &Arc<Arena>,
        work: &mut dyn FnMut() -> Tensor,
    ) -> Replay {
        let earlier = graph_capture.steps().replace(Vec::new());
        assert!(earlier.is_none(), "one graph capture at a time");
        arena.begin_capture();
        let result = Arc::new(work());
        let reserved = arena.end_capture();
        let steps = graph_capture.steps().take().expect("a graph capture was begun");
        let prepared = sound(device.prepare(steps));
        Replay { device: device.clone(), prepared, result, _reserved: reserved }
    }
}

#[track_caller]
fn sound<T>(result: Result<T, DeviceError>) -> T {
    result.unwrap_or_else(|error| panic!("a captured graph: {error}"))
}

impl CapturedGraph for Replay {
    fn replay(&self) -> Arc<Tensor> {
        sound(self.prepared.repeat(&*self.device));
        self.result.clone()
    }
}
