//! The model that the KL divergence is taken from: the policy as it began, one that follows it, or another, a teacher perhaps.

use std::path::Path;

use half::bf16;

use super::starting_weights::starting_weights;
use crate::checkpoint::resume::CHECKPOINT;
use crate::checkpoint::{Checkpoint, CheckpointError, folder};
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::Host;
use crate::recipe::GrpoSettings;
use crate::recipe::plan::Plan;

/// The folder of a checkpoint that has a reference which follows the policy.
const FOLDER: &str = "reference_model";

/// A frozen model.
pub struct ReferenceModel {
    /// Its shape; the policy's vocabulary and image tokens.
    pub model: Model,
    /// Its weights.
    pub weights: Weights,
    /// Whether its vision tower says of an image what the policy's says, where that is frozen.
    pub has_policy_tower: bool,
}

/// The reference of a run that is `step` steps old, beside a policy of shape `model`; none where the divergence has no weight.
///
/// # Errors
/// When its weights cannot be read.
pub fn open(plan: &Plan, model: &Model, step: u64) -> Result<Option<ReferenceModel>, CheckpointError> {
    let grpo = &plan.recipe.grpo;
    if grpo.beta == 0.0 {
        return Ok(None);
    }
    let other = plan.reference.as_ref();
    let of_reference = other.map_or_else(|| model.clone(), |other| other.model(model.backend.clone()));
    let weights = match other {
        _ if follows(grpo) && step > 0 => {
            let dir = plan.run_dir().join(format!("{CHECKPOINT}{step}")).join(FOLDER);
            Checkpoint { dir, ..plan.checkpoint.clone() }.weights(model)?
        }
        Some(other) => other.weights(&of_reference)?,
        None => starting_weights(plan, model)?,
    };
    Ok(Some(ReferenceModel { model: of_reference, weights, has_policy_tower: other.is_none() }))
}

/// Whether the reference follows the policy, so that a checkpoint must have it.
pub fn follows(grpo: &GrpoSettings) -> bool {
    grpo.beta > 0.0 && grpo.ref_model_sync_steps > 0
}

/// Whether the reference is renewed behind step `step`, from 1.
pub fn is_sync_due(grpo: &GrpoSettings, step: u64) -> bool {
    follows(grpo) && step.is_multiple_of(grpo.ref_model_sync_steps)
}

impl ReferenceModel {
    /// Moves it to `alpha · policy + (1 − alpha) · reference`, each rounded to bf16, in place (TR-DPO, Gorbatovski et al. 2024).
    pub fn mix(&mut self, policy: &Weights, alpha: f64) {
        let backend = &*self.model.backend;
        for (of_policy, of_reference) in policy.values.iter().zip(self.weights.values.iter_mut()) {
            let (policy, old) = (backend.to_f32(of_policy), backend.to_f32(of_reference));
            let mixed = |(&policy, &old): (&f32, &f32)| {
                bf16::from_f64(alpha.mul_add(f64::from(policy), (1.0 - alpha) * f64::from(old)))
            };
            let mixed: Vec<bf16> = policy.iter().zip(&old).map(mixed).collect();
            backend.overwrite(of_reference, Host::Bf16(&mixed));
        }
        self.weights.version += 1;
    }

    /// Writes it into a checkpoint that is being written.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn write_to(&self, companions: &Path, checkpoint: &Path) -> Result<(), CheckpointError> {
        folder::save(&self.model, &self.weights, companions, &checkpoint.join(FOLDER), |_| Ok(()))
    }
}
