//! Random weights for a config: matrices normal with the config's `initializer_range`, scales one, biases zero.

use half::bf16;

use crate::model::Model;
use crate::model::parameters::{Parameters, Role, Weights};
use crate::ops::{Dtype, Host};

/// Draws all weights on the model's device, each parameter from the stream of its number; the same seed gives the same weights on every
/// machine.
pub fn random_weights(model: &Model, seed: u64) -> Weights {
    let (backend, std) = (&model.backend, model.config.init_std);
    let mut stream = 0;
    let values = Parameters::from_layout(&model.layout, |spec| {
        stream += 1;
        match spec.role {
            Role::Scale => backend.upload(Host::Bf16(&vec![bf16::ONE; spec.len()]), &spec.shape, Dtype::Bf16),
            Role::Bias => backend.zeros(&spec.shape, Dtype::Bf16),
            Role::Matrix => backend.random_normal(&spec.shape, std, seed, stream),
        }
    });
    Weights::new(values)
}
