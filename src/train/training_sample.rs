//! From a trajectory to what the learner takes: which of its tokens are learned, from what, and with which advantage.

use std::sync::Arc;

use super::loss::kl;
use super::sample::{Sample, SampleImage};
use crate::ops::Tensor;
use crate::prompt::PreparedImage;
use crate::recipe::{GrpoSettings, LogprobKind};
use crate::rollout::trajectory::Trajectory;

/// A trajectory as the learner takes it; per token of `sample`.
#[derive(Clone, Debug)]
pub(super) struct TrainingSample {
    pub sample: Sample,
    /// Log-probability under the weights that sampled it; 0 where not learned, NaN where a learned token was not sampled.
    pub old: Vec<f32>,
    /// Temperature of the loss's log-probability.
    pub temperatures: Vec<f32>,
    /// `None` where the token has no policy gradient.
    pub advantages: Vec<Option<f64>>,
    /// Entropy when it was sampled, at temperature 1; 0 where not learned.
    pub entropies: Vec<f32>,
    /// Log-probability under the reference of each learned token, in order; empty before it is computed.
    pub reference: Vec<f32>,
    /// Whether it is a rollout of an earlier step.
    pub is_replayed: bool,
}

/// The vision tower's output for an image, where it is known and stays as it is.
pub type UnmergedFeatures<'a> = dyn Fn(&Arc<PreparedImage>) -> Option<Arc<Tensor>> + 'a;

/// What a batch is made with.
#[derive(Clone, Copy)]
pub struct BatchSettings<'a> {
    /// The recipe's `grpo` table.
    pub grpo: &'a GrpoSettings,
    /// Features of images that are known already.
    pub features: &'a UnmergedFeatures<'a>,
    /// Tokens that stand for images, which are never learned.
    pub placeholders: &'a [u32],
}

/// The tokens with a policy gradient: of the model's own those that were drawn, and what others said where that is not masked.
pub(super) fn policy_tokens<'a>(
    trajectory: &'a Trajectory,
    settings: BatchSettings<'a>,
) -> impl Iterator<Item = usize> + 'a {
    let BatchSettings { grpo, placeholders, .. } = settings;
    let has_gradient = move |&i: &usize| match &trajectory.sampled[i] {
        Some(token) => token.temperature > 0.0 || grpo.train_zero_temperature_tokens,
        None => !grpo.mask_env_responses && !placeholders.contains(&trajectory.token_ids[i]),
    };
    (trajectory.prompt_tokens..trajectory.token_ids.len()).filter(has_gradient)
}

impl TrainingSample {
    /// The advantage of the rollout, which all of its tokens with a policy gradient have; 0 without one.
    pub fn advantage(&self) -> f64 {
        self.advantages.iter().flatten().copied().find(|advantage| *advantage != 0.0).unwrap_or(0.0)
    }

    /// Whether it teaches the policy something.
    pub fn has_advantage(&self) -> bool {
        self.advantage() != 0.0
    }

    /// Takes the KL divergence of each token, under the weights that sampled it, off its advantage.
    pub fn take_kl_off(&mut self, grpo: &GrpoSettings) {
        let targets: Vec<usize> = self.sample.targets().collect();
        for (i, &reference) in targets.into_iter().zip(&self.reference) {
            let (divergence, _) = kl(grpo.kl_estimator, self.old[i], reference);
            self.advantages[i] = self.advantages[i].map(|advantage| advantage - grpo.beta * divergence);
        }
    }

    /// A copy for a later step. What the vision tower made of its images is not kept.
    pub fn kept(&self) -> TrainingSample {
        let mut kept = TrainingSample { reference: Vec::new(), is_replayed: true, ..self.clone() };
        kept.sample.images.iter_mut().for_each(|image| image.unmerged_features = None);
        kept
    }

    /// A trajectory whose tokens have this advantage.
    pub fn new(trajectory: &Trajectory, advantage: f64, settings: BatchSettings<'_>) -> TrainingSample {
        let tokens = trajectory.token_ids.len();
        let mut trained = vec![false; tokens];
        let mut old = vec![0.0; tokens];
        let mut temperatures = vec![1.0; tokens];
        let (mut advantages, mut entropies) = (vec![None; tokens], vec![0.0; tokens]);
        for i in policy_tokens(trajectory, settings) {
            (trained[i], old[i], advantages[i]) = (true, f32::NAN, Some(advantage));
        }
        for (i, token) in trajectory.own() {
            trained[i] |= settings.grpo.kl_zero_temperature_tokens;
            entropies[i] = token.entropy;
            old[i] = match settings.grpo.logprob {
                LogprobKind::Raw => token.logprob,
                LogprobKind::Temperature => token.logprob_at_temperature,
            };
            if token.temperature > 0.0 {
                temperatures[i] = token.temperature;
            }
        }
        let features = settings.features;
        let image =
            |image: &Arc<PreparedImage>| SampleImage { prepared: image.clone(), unmerged_features: features(image) };
        let images = trajectory.images.iter().map(image).collect();
        let sample = Sample { ids: trajectory.token_ids.clone(), trained, images };
        TrainingSample { sample, old, temperatures, advantages, entropies, reference: Vec::new(), is_replayed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::KlEstimator;

    #[test]
    fn the_divergence_of_a_token_is_taken_off_its_own_advantage() {
        let sample = Sample { ids: vec![1, 2, 3], trained: vec![false, true, true], images: Vec::new() };
        let mut rollout = TrainingSample {
            sample,
            old: vec![0.0, -1.0, -2.0],
            temperatures: vec![1.0; 3],
            advantages: vec![None, Some(0.5), None],
            entropies: vec![0.0; 3],
            reference: vec![-1.5, -1.0],
            is_replayed: false,
        };
        let grpo = GrpoSettings { beta: 2.0, kl_estimator: KlEstimator::K1, ..GrpoSettings::default() };
        rollout.take_kl_off(&grpo);
        // The policy finds the first token likelier than the reference does.
        assert_eq!(rollout.advantages, [None, Some(0.5 - 2.0 * 0.5), None]);
    }
}
