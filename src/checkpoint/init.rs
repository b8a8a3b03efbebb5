//! Random weights for a config: matrices normal with the config's `initializer_range`, scales one, biases zero.

use half::bf16;

use crate::model::Model;
use crate::model::parameters::{Parameters, Role, Weights};
use crate::ops::{Dtype, Host, HostMut};

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
            Role::Matrix => {
                let drawn = backend.random_normal(&spec.stored_shape(), std, seed, stream);
                if !spec.is_padded() {
                    return drawn;
                }
                let mut values = vec![bf16::ZERO; drawn.len()];
                backend.download(&drawn, HostMut::Bf16(&mut values));
                backend.upload(Host::Bf16(&spec.padded(&values)), &spec.shape, Dtype::Bf16)
            }
        }
    });
    Weights::new(values)
}
