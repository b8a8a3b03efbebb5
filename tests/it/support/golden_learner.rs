//! A learner with the weights and the optimizer that a golden file of updates names.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use thyme_engine::cpu::Cpu;
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::prompt::ImageSettings;
use thyme_engine::recipe::optimizer::OptimizerSettings;
use thyme_engine::train::learner::{Learner, LearnerSettings};
use thyme_engine::train::sample::Layout;

use super::small_policy::load;

/// AdamW's settings, as the file has them.
#[derive(Deserialize)]
pub struct Adam {
    adam_beta1: f32,
    adam_beta2: f32,
    adam_epsilon: f32,
    weight_decay: f32,
    max_grad_norm: f64,
}

/// A checkpoint of `tests/golden/model`.
pub fn golden_model(checkpoint: &str) -> (Model, Weights) {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(checkpoint), Arc::new(Cpu::new()))
}

/// A learner of its weights, but not of the tower's; and how its samples are laid out.
pub fn golden_learner(checkpoint: &str, adam: &Adam) -> (Learner, Layout) {
    let (model, weights) = golden_model(checkpoint);
    let layout = Layout { merge: model.config.merge(), image_pad: model.config.image_pad };
    let image = ImageSettings::default();
    let settings = LearnerSettings {
        optimizer: OptimizerSettings {
            adam_beta1: adam.adam_beta1,
            adam_beta2: adam.adam_beta2,
            adam_epsilon: adam.adam_epsilon,
            weight_decay: adam.weight_decay,
            max_grad_norm: adam.max_grad_norm,
            ..OptimizerSettings::default()
        },
        freeze_vision_tower: true,
        freeze_merger: true,
        activation_recompute: false,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    };
    (Learner::new(model, weights, settings), layout)
}
