//! The learning half of GRPO: updates on one batch of rollouts, from given advantages and old log-probabilities.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::batch::{Batch, BatchSettings, KlOfRollouts, MiniBatch, ScoredGroup};
use super::learner::{Learner, PackDerivatives, Update, logprobs};
use super::loss::{LossToken, TokenLoss, kl, sequence_losses, token_weights};
use super::reference_model::{ReferenceModel, follows, is_sync_due};
use super::sample::{Layout, Pack, Sample, runs_by_tokens};
use super::trainer_state::Saved;
use super::training_sample::TrainingSample;
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::recipe::{GrpoSettings, KlIn};

/// The policy that learns, and the weights that it is held near.
pub struct Policy {
    /// Owns the policy's weights.
    pub learner: Learner,
    /// What the KL divergence is taken from; none where it has no weight.
    pub reference: Option<ReferenceModel>,
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
    /// Time that the reference's log-probabilities took.
    pub reference: Duration,
}

/// What one update measured before it changed the weights.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// Of the whole mini-batch.
    pub loss: f64,
    /// Mean estimate of the KL divergence over the tokens in the loss; NaN where the loss has none.
    pub kl: f64,
    /// Mean entropy over the computed tokens, in nats.
    pub entropy: f64,
    /// Share of the tokens in the loss whose ratio was clipped from below.
    pub clip_low: f64,
    /// Share of those whose ratio was clipped from above.
    pub clip_high: f64,
    /// The smallest ratio of a computed token.
    pub ratio_min: f64,
    /// The largest ratio of a computed token.
    pub ratio_max: f64,
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

/// Sums and extremes over the packs of a mini-batch.
struct Sums {
    loss: f64,
    kl: f64,
    entropy: f64,
    clipped_low: usize,
    clipped_high: usize,
    ratio_min: f64,
    ratio_max: f64,
    mismatched: usize,
}

impl Default for Sums {
    fn default() -> Sums {
        let (ratio_min, ratio_max) = (f64::INFINITY, f64::NEG_INFINITY);
        Sums { loss: 0.0, kl: 0.0, entropy: 0.0, clipped_low: 0, clipped_high: 0, ratio_min, ratio_max, mismatched: 0 }
    }
}

impl Policy {
    /// One update on each mini-batch in turn, until every learning rate is used: `num_mini_batches` of them are one iteration. A mini-batch with
    /// nothing to compute has no update. `look` sees the learner when all gradients of an update are there.
    pub fn learn(&mut self, batch: &mut Batch, learning_rates: &[f64], mut look: impl FnMut(&Learner)) -> Learned {
        let mut learned = Learned { tokens: batch.tokens(), ..Learned::default() };
        batch.mini_batches.iter_mut().for_each(|mini_batch| self.fill_old(&mut mini_batch.rollouts));
        let began = Instant::now();
        if self.compares_tokens() {
            batch.mini_batches.iter_mut().for_each(|mini_batch| self.fill_reference(&mut mini_batch.rollouts));
        }
        learned.reference = began.elapsed();
        if self.settings.grpo.kl_in == KlIn::Advantage {
            let rollouts = batch.mini_batches.iter_mut().flat_map(|mini_batch| &mut mini_batch.rollouts);
            rollouts.for_each(|rollout| rollout.take_kl_off(&self.settings.grpo));
        }
        let in_turn = batch.mini_batches.iter().cycle().zip(learning_rates);
        for (mini_batch, &learning_rate) in in_turn.filter(|(mini_batch, _)| mini_batch.tokens() > 0) {
            let sums = self.accumulate(mini_batch);
            look(&self.learner);
            let update = self.learner.update(learning_rate);
            if learned.updates.is_empty() {
                learned.mismatched = sums.mismatched;
            }
            let in_loss = mini_batch.divisor.tokens as f64;
            learned.updates.push(Measured {
                loss: sums.loss,
                kl: if self.compares_tokens() { sums.kl / in_loss } else { f64::NAN },
                entropy: sums.entropy / mini_batch.tokens() as f64,
                clip_low: sums.clipped_low as f64 / in_loss,
                clip_high: sums.clipped_high as f64 / in_loss,
                ratio_min: sums.ratio_min,
                ratio_max: sums.ratio_max,
                update,
            });
        }
        learned
    }

    /// Moves the reference towards the policy, where that is due behind step `step`, from 1.
    pub fn sync_reference(&mut self, step: u64) {
        let grpo = &self.settings.grpo;
        if let Some(reference) = self.reference.as_mut().filter(|_| is_sync_due(grpo, step)) {
            reference.mix(self.learner.weights(), grpo.ref_model_mixup_alpha);
        }
    }

    /// What a checkpoint holds of it.
    pub fn saved(&self) -> Saved<'_> {
        let reference = self.reference.as_ref().filter(|_| follows(&self.settings.grpo));
        Saved { learner: &self.learner, reference, replay: None, curriculum: None }
    }

    /// Whether an update compares its tokens with the reference.
    fn compares_tokens(&self) -> bool {
        self.reference.is_some() && self.settings.grpo.kl_in != KlIn::Reward
    }

    /// The KL divergence of each rollout from the reference, summed over the tokens that it learns, under the weights that sampled it; `None` without
    /// a reference.
    pub fn kl_of_rollouts(&self, groups: &[ScoredGroup<'_>], settings: BatchSettings<'_>) -> Option<KlOfRollouts> {
        self.reference.as_ref()?;
        let mut found = KlOfRollouts::default();
        for group in groups {
            let sample = |trajectory| TrainingSample::new(trajectory, 0.0, settings);
            let mut rollouts: Vec<TrainingSample> = group.group.trajectories.iter().map(sample).collect();
            self.fill_old(&mut rollouts);
            self.fill_reference(&mut rollouts);
            let sum = |rollout: &TrainingSample| {
                let pairs = rollout.sample.targets().zip(&rollout.reference);
                pairs.map(|(i, &reference)| kl(settings.grpo.kl_estimator, rollout.old[i], reference).0).sum()
            };
            found.tokens += rollouts.iter().map(|rollout| rollout.reference.len()).sum::<usize>();
            found.sums.push(rollouts.iter().map(sum).collect());
        }
        Some(found)
    }

    /// Computes the reference's log-probabilities of what the rollouts learn.
    fn fill_reference(&self, rollouts: &mut [TrainingSample]) {
        let Some(reference) = &self.reference else { return };
        rollouts.iter_mut().for_each(|rollout| rollout.reference.clear());
        let ReferenceModel { model, weights, has_policy_tower } = reference;
        let push = |rollout: &mut TrainingSample, _, logprob| rollout.reference.push(logprob);
        self.each_logprob((model, weights, *has_policy_tower), rollouts, push);
    }

    /// Computes the log-probabilities of learned tokens that were not sampled, which observations have by key.
    fn fill_old(&self, rollouts: &mut [TrainingSample]) {
        if self.settings.grpo.mask_env_responses {
            return;
        }
        let policy = (self.learner.model(), self.learner.weights(), true);
        self.each_logprob(policy, rollouts, |rollout, place, logprob| {
            if rollout.old[place].is_nan() {
                rollout.old[place] = logprob;
            }
        });
    }

    /// Gives each learned token's log-probability under some weights to `take`, with its rollout and its place in it. What the policy's tower
    /// said of images holds only where it is theirs too.
    fn each_logprob(
        &self,
        (model, weights, has_policy_tower): (&Model, &Weights, bool),
        rollouts: &mut [TrainingSample],
        mut take: impl FnMut(&mut TrainingSample, usize, f32),
    ) {
        for span in self.spans(rollouts) {
            let members = &mut rollouts[span];
            let (mut pack, temperatures) = self.pack(members);
            if pack.targets.is_empty() {
                continue;
            }
            if !has_policy_tower {
                pack.images.iter_mut().for_each(|image| image.unmerged_features = None);
            }
            let output = logprobs(model, weights, &pack, &temperatures, self.learner.settings());
            for (&(member, place), &logprob) in pack.places.iter().zip(output.of(self.settings.grpo.logprob)) {
                take(&mut members[member], place, logprob);
            }
        }
    }

    /// The rollouts that one forward takes, run by run.
    fn spans(&self, rollouts: &[TrainingSample]) -> Vec<Range<usize>> {
        let tokens: Vec<usize> = rollouts.iter().map(|rollout| rollout.sample.tokens()).collect();
        runs_by_tokens(&tokens, self.settings.micro_batch_tokens)
    }

    /// The rollouts of one forward, and the temperature of each of their targets.
    fn pack(&self, members: &[TrainingSample]) -> (Pack, Vec<f32>) {
        let samples: Vec<&Sample> = members.iter().map(|member| &member.sample).collect();
        let pack = Pack::new(&samples, self.settings.layout);
        let temperatures = pack.places.iter().map(|&(member, token)| members[member].temperatures[token]).collect();
        (pack, temperatures)
    }

    /// Adds the gradient of a mini-batch's loss, pack by pack.
    fn accumulate(&mut self, mini_batch: &MiniBatch) -> Sums {
        let MiniBatch { rollouts, divisor, .. } = mini_batch;
        let grpo = self.settings.grpo.clone();
        let counts: Vec<usize> = rollouts.iter().map(|rollout| rollout.sample.targets().count()).collect();
        let weights = token_weights(grpo.loss_type, &counts, *divisor, self.settings.completion_tokens_max);
        let entropy_weight = grpo.entropy_coef / mini_batch.entropy_tokens.max(1) as f64;
        let mut sums = Sums::default();
        for span in self.spans(rollouts) {
            let (members, weights) = (&rollouts[span.clone()], &weights[span]);
            let (pack, temperatures) = self.pack(members);
            if pack.targets.is_empty() {
                continue;
            }
            self.learner.accumulate(&pack, &temperatures, grpo.logprob, |output| {
                sums.entropy += output.entropy.iter().map(|&entropy| f64::from(entropy)).sum::<f64>();
                let new = output.of(grpo.logprob);
                let (mut dlogprob, mut dentropy) = (Vec::with_capacity(new.len()), Vec::new());
                for (member, weight) in members.iter().zip(weights) {
                    let tokens = loss_tokens(member, &new[dlogprob.len()..]);
                    let differs = |token: &&LossToken| token.new.to_bits() != token.old.to_bits();
                    sums.mismatched += if member.is_replayed { 0 } else { tokens.iter().filter(differs).count() };
                    dlogprob.extend(sums.add(&sequence_losses(&grpo, &tokens), *weight));
                    dentropy.extend(tokens.iter().map(|token| token.advantage.map_or(0.0, |_| -entropy_weight as f32)));
                }
                sums.loss += dot(&dentropy, &output.entropy);
                PackDerivatives { dlogprob, dentropy: (grpo.entropy_coef > 0.0).then_some(dentropy) }
            });
        }
        sums
    }
}

fn dot(weights: &[f32], values: &[f32]) -> f64 {
    weights.iter().zip(values).map(|(&weight, &value)| f64::from(weight) * f64::from(value)).sum()
}

/// The learned tokens of a rollout, whose log-probabilities are the first of `new`.
fn loss_tokens(rollout: &TrainingSample, new: &[f32]) -> Vec<LossToken> {
    let token = |(number, (place, &new)): (usize, (usize, &f32))| LossToken {
        new,
        old: rollout.old[place],
        reference: rollout.reference.get(number).copied(),
        advantage: rollout.advantages[place],
    };
    rollout.sample.targets().zip(new).enumerate().map(token).collect()
}

impl Sums {
    /// Adds the tokens of a sequence, each with a weight; returns the weighted derivatives of their losses.
    fn add(&mut self, losses: &[TokenLoss], weight: f64) -> Vec<f32> {
        for loss in losses {
            self.loss += weight * loss.loss;
            self.kl += loss.kl;
            self.clipped_low += usize::from(loss.clipped_low);
            self.clipped_high += usize::from(loss.clipped_high);
            self.ratio_min = self.ratio_min.min(loss.ratio);
            self.ratio_max = self.ratio_max.max(loss.ratio);
        }
        losses.iter().map(|loss| (weight * loss.dlogprob) as f32).collect()
    }
}
