//! The gradient's norm by groups of parameters: where a gradient is large, and which parts learn at all.

use std::collections::BTreeMap;

use super::learner::Learner;
use crate::model::parameters::{Affine, Layout, Parameters, Part};
use crate::ops::Tensor;
use crate::telemetry::window::Metric;

/// Adds up the norms of a step's updates, where the recipe asks for them.
#[derive(Debug, Default)]
pub struct GradNorms {
    is_on: bool,
    /// Sum over the updates whose gradient was finite, and their number, by group.
    sums: BTreeMap<&'static str, (f64, usize)>,
}

impl GradNorms {
    /// Notes norms where `is_on`.
    pub fn new(is_on: bool) -> GradNorms {
        GradNorms { is_on, sums: BTreeMap::new() }
    }

    /// Notes the norms of an update when all its gradients are there.
    pub fn note(&mut self, learner: &Learner) {
        if !self.is_on {
            return;
        }
        for (group, norm) in grad_norms(learner).into_iter().filter(|(_, norm)| norm.is_finite()) {
            let (sum, count) = self.sums.entry(group).or_default();
            *sum += norm;
            *count += 1;
        }
    }

    /// The means over the updates since the last call, as metrics.
    pub fn take(&mut self) -> Vec<Metric> {
        let sums = std::mem::take(&mut self.sums);
        let mean = |(group, (sum, count)): (&str, (f64, usize))| {
            Metric::mean(format!("grad_norm/{group}"), sum / count as f64)
        };
        sums.into_iter().map(mean).collect()
    }
}

/// The norm of the gradient of each group of parameters that is trained, before clipping, by the group's name. Their squares add up to that
/// of the whole gradient's norm.
pub fn grad_norms(learner: &Learner) -> BTreeMap<&'static str, f64> {
    let model = learner.model();
    let groups = groups(&model.layout);
    let mut gradients: BTreeMap<&str, Vec<&Tensor>> = BTreeMap::new();
    for (group, gradient) in groups.iter().zip(learner.gradients().into_iter().flat_map(Parameters::iter)) {
        if let Some(gradient) = gradient {
            gradients.entry(group).or_default().push(gradient);
        }
    }
    let norm = |(group, tensors): (&'static str, Vec<&Tensor>)| (group, model.backend.sum_of_squares(&tensors).sqrt());
    gradients.into_iter().map(norm).collect()
}

/// The group of each parameter. The head is among the embeddings where it is one with them.
fn groups(layout: &Layout) -> Parameters<&'static str> {
    let mut groups = Parameters::from_layout(layout, |spec| match spec.part {
        Part::Vision => "tower",
        Part::Merger => "merger",
        Part::Language => "norms",
    });
    groups[layout.head] = "head";
    groups[layout.embed] = "embeddings";
    for block in &layout.layers {
        for (name, maps) in [("attention", [block.qkv, block.output]), ("mlp", [block.up, block.down])] {
            for Affine { weight, bias } in maps {
                groups[weight] = name;
                bias.into_iter().for_each(|bias| groups[bias] = name);
            }
        }
    }
    groups
}
