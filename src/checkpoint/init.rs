//! Random weights for a config: matrices normal with the config's `initializer_range`, scales one, biases zero.

use half::bf16;
use rayon::prelude::*;

use crate::model::Model;
use crate::model::parameters::{Parameters, Role, Spec, Weights};
use crate::ops::sample::philox_uniform;
use crate::ops::{Dtype, Host};

/// Draws all weights; the same seed gives the same weights on every machine.
pub fn random_weights(model: &Model, seed: u64) -> Weights {
    let mut number = 0;
    let values = Parameters::from_layout(&model.layout, |spec| {
        number += 1;
        let values = random_values(spec, model.config.init_std, seed, number);
        model.backend.upload(Host::Bf16(&values), &spec.shape, Dtype::Bf16)
    });
    Weights { values, version: 0 }
}

fn random_values(spec: &Spec, std: f32, seed: u64, number: u64) -> Vec<bf16> {
    match spec.role {
        Role::Scale => vec![bf16::ONE; spec.len()],
        Role::Bias => vec![bf16::ZERO; spec.len()],
        Role::Matrix => (0..spec.len() as u64)
            .into_par_iter()
            .map(|i| bf16::from_f32(std * standard_normal(seed, number, i)))
            .collect(),
    }
}

/// Box & Muller (1958) on two counter-based uniforms.
fn standard_normal(seed: u64, stream: u64, index: u64) -> f32 {
    let radius = (-2.0 * (1.0 - philox_uniform(seed, stream, 2 * index)).ln()).sqrt();
    let angle = std::f64::consts::TAU * philox_uniform(seed, stream, 2 * index + 1);
    (radius * angle.cos()) as f32
}
