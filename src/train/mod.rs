//! Learning: supervised fine-tuning and GRPO with adaptive temperature, around the one [`learner::Learner`].
//!
//! - **Examples.** [`dataset`] gives example number *n*, the same for every run of a recipe; the order of an epoch is computed, never stored. An
//!   example that cannot be used is left out of its step and named: [`left_out`] counts such examples and ends the run when they are too many,
//!   [`check`] finds them before a run. [`demonstration`] reads Thyme's SFT form, and so knows the markers of `think_with_code`: rollouts and
//!   demonstrations tokenise an observation by one function, text in it never as special tokens.
//! - **Batches.** [`mod@sample`] packs sequences: what neighbours begin with alike (a group its prompt and pictures) stands in the pack once, and
//!   the sequences name it as their prefix. [`batch`] decides which tokens of a step's rollouts have an advantage or a KL divergence, and what
//!   their loss is divided by; [`policy`] updates on such a batch, and is tested without a rollout. [`loss`] and [`advantage`] are plain
//!   functions of numbers.
//! - **Runs.** [`metrics`] says what is logged of a step; [`run`] is the run's folder: where it is logged, when it is saved, where it resumes.

pub mod advantage;
pub mod batch;
pub mod check;
pub mod dataset;
pub mod demonstration;
pub mod grpo;
pub mod learner;
pub mod left_out;
pub mod loss;
pub mod metrics;
mod memory_report;
pub mod policy;
pub mod run;
pub mod sample;
pub mod sft;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, init, weights};
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::Backend;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::Processor;
use crate::recipe::plan::Plan;
use crate::telemetry::gpu_sensors::GpuSensors;
use learner::{Learner, LearnerSettings};
use run::{ResumePoint, TrainerState, start_point};

/// Why a run ended before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A checkpoint or another file of the run cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The data cannot be read, or an example cannot be made.
    #[error(transparent)]
    Dataset(#[from] dataset::DatasetError),
    /// The prompt side of the checkpoint cannot be opened.
    #[error(transparent)]
    Prompt(#[from] crate::prompt::PromptError),
    /// The rollout of a step failed.
    #[error(transparent)]
    Rollout(#[from] crate::rollout::RolloutError),
    /// The recipe names something unknown.
    #[error(transparent)]
    Registry(#[from] crate::rollout::registry::RegistryError),
    /// The gradient was not finite several times in a row.
    #[error(
        "the gradient was not finite in {count} updates in a row (last at step {step}); they were skipped and the weights are \
         intact; lower `optimizer.learning_rate` or `optimizer.max_grad_norm`, or look for damaged examples"
    )]
    NotFinite {
        /// Skipped updates in a row.
        count: u64,
        /// The step of the last.
        step: u64,
    },
    /// The run folder holds a run that would be lost.
    #[error(
        "{dir} already holds a run with {newest}: go on with --resume, start over with --overwrite (which removes its checkpoints), or \
         give another `name`"
    )]
    Occupied {
        /// The run folder.
        dir: PathBuf,
        /// Its newest checkpoint.
        newest: String,
    },
    /// Too many examples cannot be used.
    #[error(
        "{left_out} of the {drawn} examples up to step {step} cannot be used, more than `data.max_left_out = {most}` allows; the last is \
         {reason}; mend them (`train RECIPE --dry-run --check-data` finds all), or allow more"
    )]
    LeftOut {
        /// Examples that were left out.
        left_out: u64,
        /// Examples that were drawn.
        drawn: u64,
        /// The step, counted from 1.
        step: u64,
        /// The share that the recipe allows.
        most: f64,
        /// The last one, and what is wrong with it.
        reason: String,
    },
    /// No example can be used.
    #[error("none of the {drawn} examples up to step {step} can be used; the last is {reason}")]
    NoneUsable {
        /// Examples that were drawn.
        drawn: u64,
        /// The step, counted from 1.
        step: u64,
        /// The last one, and what is wrong with it.
        reason: String,
    },
    /// A step had no task to roll out.
    #[error("none of the {count} tasks of step {step} could be rolled out; the first: {reason}")]
    NoTask {
        /// Tasks of the step.
        count: usize,
        /// The step, counted from 1.
        step: u64,
        /// What is wrong with the first.
        reason: String,
    },
}

/// What a run gets from where it is started.
#[derive(Clone)]
pub struct Session {
    /// Where it is computed.
    pub backend: Arc<dyn Backend>,
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

/// The learner of a plan, at its start or at its newest checkpoint, and what was done before.
fn open_learner(plan: &Plan, session: &Session, processor: &Processor) -> Result<(Learner, TrainerState), TrainError> {
    let recipe = &plan.recipe;
    let point = start_point(&plan.run_dir(), session)?;
    let model = Model::new(plan.config.clone(), session.backend.clone());
    let image = processor.image_settings();
    let settings = LearnerSettings {
        optimizer: recipe.optimizer.clone(),
        freeze_vision_tower: recipe.model.freeze_vision_tower,
        freeze_merger: recipe.model.freeze_merger,
        activation_recompute: recipe.model.activation_recompute,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    };
    let Some(ResumePoint { dir, state }) = point else {
        let weights = starting_weights(plan, &model)?;
        return Ok((Learner::new(model, weights, settings), TrainerState::default()));
    };
    let weights = weights::load(&model, &dir)?;
    let mut learner = Learner::new(model, weights, settings);
    learner.load_moments(&dir, state.updates)?;
    Ok((learner, state))
}

/// The weights that the plan starts from, and stays near where the loss has a reference.
fn starting_weights(plan: &Plan, model: &Model) -> Result<Weights, CheckpointError> {
    match plan.recipe.model.random_weights {
        true => Ok(init::random_weights(model, plan.recipe.seed)),
        false => weights::load(model, &plan.model_dir),
    }
}

/// What the device says of itself after a step, for the metrics.
fn device_metrics(session: &Session) -> Vec<(&'static str, f64)> {
    let usage = session.backend.memory();
    let held = usage.map(|usage| [("memory/peak_gb", usage.peak), ("memory/beyond_arena_gb", usage.beyond)]);
    let held = held.into_iter().flatten().map(|(name, bytes)| (name, bytes as f64 / 1e9));
    held.chain(session.gpu_sensors.iter().flat_map(|gpu_sensors| gpu_sensors.all())).collect()
}

/// Counts updates that were skipped because their gradient was not finite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub struct SkippedUpdates {
    in_a_row: u64,
    total: u64,
}

impl SkippedUpdates {
    fn count(&mut self, update: learner::Update, step: u64, max: u64) -> Result<(), TrainError> {
        if update.applied {
            self.in_a_row = 0;
            return Ok(());
        }
        self.in_a_row += 1;
        self.total += 1;
        if self.in_a_row >= max { Err(TrainError::NotFinite { count: self.in_a_row, step }) } else { Ok(()) }
    }
}
