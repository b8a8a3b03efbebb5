//! Learning: supervised fine-tuning, preferences (DPO), and GRPO with adaptive temperature, around the one [`learner::Learner`].
//!
//! - **Examples.** [`dataset`] gives example number *n*, the same for every run of a recipe; the order of an epoch is computed, never stored
//!   ([`epoch_order`]); [`curriculum`] passes over rows by their measured difficulty. An example that cannot be used is left out of its step and named: [`left_out`] counts such examples and ends the run when they are too many,
//!   [`check`] finds them before a run. [`demonstration`] reads Thyme's SFT form, and so knows the markers of `think_with_code`: rollouts and
//!   demonstrations tokenise an observation by one function, text in it never as special tokens. [`loss_mask`] says which of its tokens are
//!   learned, [`max_length`] cuts what is too long, and [`sources`] mixes files by weights.
//! - **Batches.** [`mod@sample`] packs sequences: what neighbours begin with alike (a group its prompt and pictures) stands in the pack once, and
//!   the sequences name it as their prefix. [`batch`] decides which tokens of a step's rollouts have an advantage or a KL divergence, and what
//!   their loss is divided by; [`policy`] updates on such a batch, and is tested without a rollout. [`loss`] and [`advantage`] are plain
//!   functions of numbers. [`replay`] keeps rollouts for later steps, [`reference_model`] is what the KL divergence is taken from.
//! - **Sizes.** [`sizes`] makes a recipe's sizes of its engine and its learner; [`memory_plan`] adds up what a run of these sizes will hold. After
//!   its first step a run shows whose memory is where: the weights stand there once, read by the rollout and written in place by the update.
//! - **Runs.** [`metrics`] says what is logged of a step, [`step_time`] where its time went, [`grad_norms`] how large which gradients were; [`run`] is the
//!   run's folder: where it is logged, when it is saved, where it resumes. [`judge_watch`] ends a run whose judge answers nothing, [`local_judge`] is a
//!   judge beside the policy.

pub mod advantage;
pub mod batch;
pub mod check;
pub mod curriculum;
pub mod dataset;
mod dataset_error;
pub mod demonstration;
pub mod dpo;
pub mod epoch_order;
mod example_loop;
pub mod flops;
pub mod grad_norms;
pub mod grpo;
pub mod judge_watch;
pub mod learner;
pub mod left_out;
pub mod local_judge;
pub mod loss;
pub mod loss_mask;
pub mod max_length;
pub mod memory_plan;
mod memory_report;
pub mod metrics;
mod metrics_file;
pub mod policy;
pub mod reference_model;
pub mod replay;
pub mod run;
pub mod sample;
pub mod sft;
pub mod sizes;
pub mod sources;
pub mod step_time;

mod error;
mod session;
mod starting_weights;
pub mod trainer_state;
pub mod training_sample;

pub use error::TrainError;
pub use session::{Session, SkippedUpdates};

use crate::checkpoint::Checkpoint;
use crate::prompt::Processor;
use crate::recipe::plan::Plan;
use learner::Learner;
use run::{ResumePoint, start_point};
use sizes::learner_settings;
use starting_weights::starting_weights;
use trainer_state::TrainerState;

/// The learner of a plan, at its start or at its newest checkpoint, and what was done before.
fn open_learner(plan: &Plan, session: &Session, processor: &Processor) -> Result<(Learner, TrainerState), TrainError> {
    let point = start_point(&plan.run_dir(), session)?;
    let model = plan.checkpoint.model(session.backend.clone());
    let settings = learner_settings(&plan.recipe, processor.image_settings());
    let Some(ResumePoint { dir, state }) = point else {
        let weights = starting_weights(plan, &model)?;
        return Ok((Learner::new(model, weights, settings), TrainerState::default()));
    };
    // A run's checkpoints have the config that it started from.
    let weights = Checkpoint { dir: dir.clone(), ..plan.checkpoint.clone() }.weights(&model)?;
    let mut learner = Learner::new(model, weights, settings);
    learner.load_moments(&dir, state.updates)?;
    Ok((learner, state))
}
