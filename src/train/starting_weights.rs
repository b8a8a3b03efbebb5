//! The weights that a run starts from.

use crate::checkpoint::{CheckpointError, init};
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::recipe::plan::Plan;

/// Those of the plan's checkpoint, or random ones of its config.
///
/// # Errors
/// When the checkpoint's cannot be read.
pub fn starting_weights(plan: &Plan, model: &Model) -> Result<Weights, CheckpointError> {
    match plan.recipe.model.random_weights {
        true => Ok(init::random_weights(model, plan.recipe.seed)),
        false => plan.checkpoint.weights(model),
    }
}
