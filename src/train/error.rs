//! Why a run ends before its last step.

use std::path::PathBuf;

use super::dataset::DatasetError;
use crate::checkpoint::CheckpointError;
use crate::prompt::PromptError;
use crate::rollout::RolloutError;
use crate::rollout::registry::RegistryError;
use crate::telemetry::wandb::WandbError;

/// Why a run ended before its last step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A checkpoint or another file of the run cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The data cannot be read, or an example cannot be made.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The prompt side of the checkpoint cannot be opened.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The rollout of a step failed.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// The recipe names something unknown.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Metrics cannot go where the recipe wants them.
    #[error(transparent)]
    Wandb(#[from] WandbError),
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
    /// The judge of the rewards answers nothing.
    #[error(
        "the judge answered nothing in {steps} steps in a row, and none of {asked} questions in the last, step {step}: {reason}; what was done before them \
         are saved: start or mend the judge (`reward.judge.base_url`), and go on with --resume; `reward.judge.max_failed_steps` allows more"
    )]
    Judge {
        /// Questions of the last step.
        asked: usize,
        /// Steps in a row.
        steps: u64,
        /// The last of them, counted from 1.
        step: u64,
        /// Where it was asked, and why the last question has no reply.
        reason: String,
    },
}
