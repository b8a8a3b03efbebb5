//! What a run gets from where it is started, and what it counts on its way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::learner::Update;
use crate::ops::Backend;
use crate::telemetry::gpu_peak::bf16_flops;
use crate::telemetry::gpu_sensors::GpuSensors;

/// What a run gets from where it is started.
#[derive(Clone)]
pub struct Session {
    /// Where it is computed.
    pub backend: Arc<dyn Backend>,
    /// Where a judge that is loaded beside the policy is computed: a stream and a memory of its own.
    pub judge_backend: Option<Arc<dyn Backend>>,
    /// Go on from the run folder's newest checkpoint.
    pub resume: bool,
    /// Remove the checkpoints that the run folder holds and start anew.
    pub overwrite: bool,
    /// Bytes of memory that the plan foresees.
    pub planned_bytes: u128,
    /// The GPU's sensors, where it is computed on one that has them.
    pub gpu_sensors: Option<Arc<GpuSensors>>,
    /// Raised from outside to make the run save and end.
    pub stop: Arc<AtomicBool>,
}

/// What the device says of itself after a step, for the metrics.
pub(super) fn device_metrics(session: &Session) -> Vec<(&'static str, f64)> {
    let usage = session.backend.memory();
    let held = usage.map(|usage| [("memory/peak_gb", usage.peak), ("memory/beyond_arena_gb", usage.beyond)]);
    let held = held.into_iter().flatten().map(|(name, bytes)| (name, bytes as f64 / 1e9));
    held.chain(session.gpu_sensors.iter().flat_map(|gpu_sensors| gpu_sensors.all())).collect()
}

/// The most dense bf16 FLOP/s of the device, where that is known.
pub(super) fn peak_flops(session: &Session) -> Option<f64> {
    session.gpu_sensors.as_ref().and_then(|sensors| bf16_flops(&sensors.name()?))
}

/// Counts updates that were skipped because their gradient was not finite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub struct SkippedUpdates {
    /// Updates skipped one after the other.
    pub in_a_row: u64,
    /// Updates skipped in all.
    pub total: u64,
}

impl SkippedUpdates {
    /// Counts an update of a step.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] when `max` in a row were skipped.
    pub fn count(&mut self, update: Update, step: u64, max: u64) -> Result<(), TrainError> {
        if update.applied {
            self.in_a_row = 0;
            return Ok(());
        }
        self.in_a_row += 1;
        self.total += 1;
        if self.in_a_row >= max { Err(TrainError::NotFinite { count: self.in_a_row, step }) } else { Ok(()) }
    }
}
