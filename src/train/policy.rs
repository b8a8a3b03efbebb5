//! The learning half of GRPO: updates on one batch of rollouts, from given advantages and old log-probabilities.

use super::batch::{Batch, TrainingSample};
use super::learner::{Learner, Update, logprobs};
use super::loss::{TokenLogprobs, token_loss, token_weights};
use super::sample::{Layout, Pack, Sample, runs_by_tokens};
use crate::model::parameters::Weights;
use crate::recipe::GrpoSettings;

/// The policy that learns, and the weights that it is held near.
pub struct Policy {
    /// Owns the policy's weights.
    pub learner: Learner,
    /// What the KL divergence is taken from; none where it has no weight.
    pub reference: Option<Weights>,
    /// How it learns.
    pub settings: PolicySettings,
}

/// How a policy learns from a batch.
#[derive(Clone, PartialEq, Debug)]
pub struct PolicySettings {
    /// The recipe's `grpo` table: the loss, and how advantages are made.
    pub grpo: GrpoSettings,
    /// Tokens after its prompt that a rollout may have, the constant of `dr_grpo`.
    pub completion_tokens_max: usize,
    /// Tokens of one forward and backward.
    pub micro_batch_tokens: usize,
    /// What is fixed about the model's sequences.
    pub layout: Layout,
}

/// What the updates of a step did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Learned {
    /// In order; none where there was nothing to compute.
    pub updates: Vec<Measured>,
    /// Tokens that were computed for each.
    pub tokens: usize,
    /// Those whose log-probability is not the sampler's to the bit, at the first update.
    pub mismatched: usize,
}

/// What one update measured before it changed the weights.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// Of the whole batch.
    pub loss: f64,
    /// Mean k3 estimate of the KL divergence over the tokens in the loss; NaN without a reference.
    pub kl: f64,
    /// Mean entropy over the computed tokens, in nats.
    pub entropy: f64,
    /// Share of the tokens in the loss whose ratio was clipped from below.
    pub clip_low: f64,
    /// Share of those whose ratio was clipped from above.
    pub clip_high: f64,
    /// What the optimizer did.
    pub update: Update,
}

impl Learned {
    /// The mean of a value over the updates; NaN where none has it.
    pub fn mean(&self, value: impl Fn(&Measured) -> f64) -> f64 {
        let values: Vec<f64> = self.updates.iter().map(value).filter(|value| value.is_finite()).collect();
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Sums over the packs of a batch.
#[derive(Default)]
struct Sums {
    loss: f64,
    kl: f64,
    entropy: f64,
    clipped_low: usize,
    clipped_high: usize,
    mismatched: usize,
}

impl Policy {
    /// One update on the batch for each learning rate. `look` sees the learner when all gradients of an update are there.
    pub fn learn(&mut self, batch: &Batch, learning_rates: &[f64], mut look: impl FnMut(&Learner)) -> Learned {
        let mut learned = Learned { tokens: batch.tokens(), ..Learned::default() };
        if learned.tokens == 0 {
            return learned;
        }
        for &learning_rate in learning_rates {
            let sums = self.accumulate(batch);
            look(&self.learner);
            let update = self.learner.update(learning_rate);
            if learned.updates.is_empty() {
                learned.mismatched = sums.mismatched;
            }
            let in_loss = batch.divisor.tokens as f64;
            learned.updates.push(Measured {
                loss: sums.loss,
                kl: if self.reference.is_some() { sums.kl / in_loss } else { f64::NAN },
                entropy: sums.entropy / learned.tokens as f64,
                clip_low: sums.clipped_low as f64 / in_loss,
                clip_high: sums.clipped_high as f64 / in_loss,
                update,
            });
        }
        learned
    }

    /// Adds the gradient of the batch's loss, pack by pack.
    fn accumulate(&mut self, batch: &Batch) -> Sums {
        let PolicySettings { grpo, completion_tokens_max, micro_batch_tokens, layout } = &self.settings;
        let counts: Vec<usize> = batch.rollouts.iter().map(|r| r.sample.targets().count()).collect();
        let weights = token_weights(grpo.loss_type, &counts, batch.divisor, *completion_tokens_max);
        let tokens: Vec<usize> = batch.rollouts.iter().map(|r| r.sample.tokens()).collect();
        let mut sums = Sums::default();
        for span in runs_by_tokens(&tokens, *micro_batch_tokens) {
            let (members, weights) = (&batch.rollouts[span.clone()], &weights[span]);
            let samples: Vec<&Sample> = members.iter().map(|member| &member.sample).collect();
            let pack = Pack::new(&samples, *layout);
            if pack.targets.is_empty() {
                continue;
            }
            let of_targets = |values: fn(&TrainingSample) -> &Vec<f32>| -> Vec<f32> {
                pack.places.iter().map(|&(member, token)| values(&members[member])[token]).collect()
            };
            let temperatures = of_targets(|member| &member.temperatures);
            let old = of_targets(|member| &member.old);
            let reference = self.reference.as_ref().map(|reference| {
                let output = logprobs(self.learner.model(), reference, &pack, &temperatures, self.learner.settings());
                output.of(grpo.logprob).to_vec()
            });
            self.learner.accumulate(&pack, &temperatures, grpo.logprob, |output| {
                let new = output.of(grpo.logprob);
                let one = |(i, &(member, place)): (usize, &(usize, usize))| {
                    let reference = reference.as_ref().map(|reference| reference[i]);
                    let token = TokenLogprobs { new: new[i], old: old[i], reference };
                    let loss = token_loss(grpo, token, members[member].advantages[place]);
                    sums.loss += weights[member] * loss.loss;
                    sums.kl += loss.kl;
                    sums.entropy += f64::from(output.entropy[i]);
                    sums.clipped_low += usize::from(loss.clipped_low);
                    sums.clipped_high += usize::from(loss.clipped_high);
                    sums.mismatched += usize::from(new[i].to_bits() != old[i].to_bits());
                    (weights[member] * loss.dlogprob) as f32
                };
                pack.places.iter().enumerate().map(one).collect()
            });
        }
        sums
    }
}
