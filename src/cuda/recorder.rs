//! Recordings: the steps that some work came to, and the memory that they run in. A device that can makes one graph of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Cuda;
use super::arena::Reserved;
use super::device::{Device, DeviceError, Prepared, Step};
use crate::ops::{Recording, Tensor};

/// Where steps are noted instead of being done, while something is recorded.
#[derive(Default)]
pub(super) struct Recorder {
    steps: Mutex<Option<Vec<Step>>>,
}

impl Recorder {
    /// Whether something is recorded.
    pub fn is_recording(&self) -> bool {
        self.steps().is_some()
    }

    /// Notes a step; false where nothing is recorded.
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

/// A recording on a device.
pub(super) struct Replay {
    device: Arc<dyn Device>,
    prepared: Prepared,
    result: Tensor,
    /// What the steps use beside the result and what the recorder was given.
    _reserved: Reserved,
}

impl Replay {
    /// Records `work`.
    #[track_caller]
    pub fn record(cuda: &Cuda, work: &mut dyn FnMut() -> Tensor) -> Replay {
        let earlier = cuda.recorder.steps().replace(Vec::new());
        assert!(earlier.is_none(), "one recording at a time");
        cuda.arena.begin_recording();
        let result = work();
        let reserved = cuda.arena.end_recording();
        let steps = cuda.recorder.steps().take().expect("a recording was begun");
        let prepared = sound(cuda.device.prepare(steps));
        Replay { device: cuda.device.clone(), prepared, result, _reserved: reserved }
    }
}

#[track_caller]
fn sound<T>(result: Result<T, DeviceError>) -> T {
    result.unwrap_or_else(|error| panic!("a recording: {error}"))
}

impl Recording for Replay {
    fn replay(&self) -> &Tensor {
        sound(self.prepared.repeat(&*self.device));
        &self.result
    }
}
