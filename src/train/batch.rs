//! What a step of GRPO learns from: rollouts with their advantages, and what their loss is divided by.
//!
//! As in TRL, the loss is over the batch that was sampled: a rollout that is masked, unscored, or of a group without differing rewards
//! has no part in the policy gradient, but counts in the divisor, and the KL divergence is taken of all that is not masked. What adds
//! nothing to the loss is not computed.

use std::sync::Arc;

use super::advantage::{group_advantages, rewards_differ};
use super::loss::Divisor;
use super::sample::{Sample, SampleImage};
use crate::ops::Tensor;
use crate::prompt::PreparedImage;
use crate::recipe::{GrpoSettings, LogprobKind, LossDenominator};
use crate::rollout::Group;
use crate::rollout::reward_set::Scores;
use crate::rollout::trajectory::Trajectory;

/// What a step learns from.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rollouts with something to compute.
    pub(super) rollouts: Vec<TrainingSample>,
    /// What their losses are divided by.
    pub(super) divisor: Divisor,
    /// Advantages of all scored rollouts.
    pub advantages: Vec<f64>,
    /// Groups that were rolled out.
    pub groups: usize,
    /// Those without two different rewards.
    pub groups_without_signal: usize,
    /// Those that `filter_zero_advantage` leaves out of the policy gradient.
    pub groups_left_out: usize,
    /// Rollouts that `mask_truncated_completions` and `mask_over_turn_completions` leave out of the loss.
    pub masked: usize,
}

/// A trajectory as the learner takes it; per token of `sample`.
#[derive(Debug)]
pub(super) struct TrainingSample {
    pub sample: Sample,
    /// Log-probability under the weights that sampled it; 0 where not learned.
    pub old: Vec<f32>,
    /// Temperature of the loss's log-probability.
    pub temperatures: Vec<f32>,
    /// 0 where the token has a KL divergence only.
    pub advantages: Vec<f64>,
}

/// The vision tower's output for an image, where it is known and stays as it is.
pub type UnmergedFeatures<'a> = dyn Fn(&Arc<PreparedImage>) -> Option<Arc<Tensor>> + 'a;

impl Batch {
    /// The groups of a step with the scores of their trajectories, in order.
    pub fn new(
        groups: &[Group],
        scores: &[Vec<Scores>],
        settings: &GrpoSettings,
        features: &UnmergedFeatures<'_>,
    ) -> Batch {
        let mut batch = Batch { groups: groups.len(), ..Batch::default() };
        for (group, scores) in groups.iter().zip(scores) {
            let rewards: Vec<Option<f64>> = scores.iter().map(|scores| scores.total.value()).collect();
            let advantages = group_advantages(&rewards, settings.scale_rewards);
            let has_signal = rewards_differ(&rewards);
            let is_left_out = settings.filter_zero_advantage && !has_signal;
            batch.groups_without_signal += usize::from(!has_signal);
            batch.groups_left_out += usize::from(is_left_out);
            batch.advantages.extend(advantages.iter().flatten());
            for (trajectory, advantage) in group.trajectories.iter().zip(advantages) {
                batch.push(trajectory, advantage.filter(|_| !is_left_out), settings, features);
            }
        }
        batch
    }

    /// Adds a rollout; without an advantage it has no part in the policy gradient.
    fn push(
        &mut self,
        trajectory: &Trajectory,
        advantage: Option<f64>,
        settings: &GrpoSettings,
        features: &UnmergedFeatures<'_>,
    ) {
        let is_masked = (settings.mask_truncated_completions && trajectory.end.is_truncated())
            || (settings.mask_over_turn_completions && trajectory.end.is_over_turn());
        self.masked += usize::from(is_masked);
        let has_kl = settings.beta > 0.0 && settings.loss_denominator == LossDenominator::Sampled;
        let training_sample = training_sample(trajectory, advantage.unwrap_or(0.0), settings, features);
        let tokens = training_sample.sample.targets().count();
        let is_computed = tokens > 0 && !is_masked && (advantage.is_some() || has_kl);
        match settings.loss_denominator {
            LossDenominator::Sampled => {
                self.divisor.sequences += usize::from(trajectory.own_tokens() > 0);
                self.divisor.tokens += if is_masked { 0 } else { tokens };
            }
            LossDenominator::Kept if is_computed => {
                self.divisor.sequences += 1;
                self.divisor.tokens += tokens;
            }
            LossDenominator::Kept => {}
        }
        if is_computed {
            self.rollouts.push(training_sample);
        }
    }

    /// Tokens that are computed.
    pub fn tokens(&self) -> usize {
        self.rollouts.iter().map(|rollout| rollout.sample.targets().count()).sum()
    }

    /// Whether the loss has a gradient: some token has an advantage, or a KL divergence of weight `beta`.
    pub fn has_signal(&self, beta: f64) -> bool {
        let has_part =
            |rollout: &TrainingSample| rollout.sample.targets().any(|i| beta > 0.0 || rollout.advantages[i] != 0.0);
        self.rollouts.iter().any(has_part)
    }
}

fn training_sample(
    trajectory: &Trajectory,
    advantage: f64,
    settings: &GrpoSettings,
    features: &UnmergedFeatures<'_>,
) -> TrainingSample {
    let tokens = trajectory.token_ids.len();
    let mut trained = vec![false; tokens];
    let mut old = vec![0.0; tokens];
    let mut temperatures = vec![1.0; tokens];
    let mut advantages = vec![0.0; tokens];
    for (i, token) in trajectory.own() {
        let has_advantage = token.temperature > 0.0 || settings.train_zero_temperature_tokens;
        trained[i] = has_advantage || settings.kl_zero_temperature_tokens;
        advantages[i] = if has_advantage { advantage } else { 0.0 };
        old[i] = match settings.logprob {
            LogprobKind::Raw => token.logprob,
            LogprobKind::Temperature => token.logprob_at_temperature,
        };
        if token.temperature > 0.0 {
            temperatures[i] = token.temperature;
        }
    }
    let image =
        |image: &Arc<PreparedImage>| SampleImage { prepared: image.clone(), unmerged_features: features(image) };
    let images = trajectory.images.iter().map(image).collect();
    TrainingSample {
        sample: Sample { ids: trajectory.token_ids.clone(), trained, images },
        old,
        temperatures,
        advantages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::Sampled;
    use crate::prompt::Prompt;
    use crate::rollout::reward::Score;
    use crate::rollout::trajectory::End;

    /// A rollout with so many own tokens, `at_zero` more at temperature 0, an end and a reward.
    type Rollout = (usize, usize, End, Option<f64>);

    fn groups(groups: &[&[Rollout]]) -> (Vec<Group>, Vec<Vec<Scores>>) {
        let trajectory = |(own, at_zero, end, _): &Rollout| {
            let prompt = Prompt { token_ids: vec![1, 2, 3], ..Prompt::default() };
            let mut trajectory = Trajectory::of_prompt(&prompt, 0, 0, 0, end.clone());
            for i in 0..own + at_zero {
                let temperature = if i < *own { 1.0 } else { 0.0 };
                let sampled = Sampled {
                    id: 7,
                    logprob: -1.0,
                    logprob_at_temperature: -1.0,
                    temperature,
                    processed_logprob: -1.0,
                    kept_mass: 1.0,
                    entropy: 1.0,
                };
                trajectory.token_ids.push(7);
                trajectory.sampled.push(Some(sampled));
            }
            trajectory
        };
        let score = |(.., reward): &Rollout| Scores {
            total: reward.map_or(Score::Unscored("no".to_owned()), Score::Value),
            parts: Vec::new(),
        };
        let of_group = |group: &&[Rollout]| Group { task: 0, trajectories: group.iter().map(trajectory).collect() };
        (groups.iter().map(of_group).collect(), groups.iter().map(|group| group.iter().map(score).collect()).collect())
    }

    /// Three groups: one that has a signal, with an unscored and a truncated rollout; one of equal rewards; one whose task could not be opened.
    fn sampled() -> (Vec<Group>, Vec<Vec<Scores>>) {
        let failed = || (0, 0, End::TaskFailed("damaged".to_owned()), None);
        groups(&[
            &[
                (4, 0, End::Answered, Some(1.0)),
                (5, 2, End::Answered, Some(0.0)),
                (6, 0, End::Answered, None),
                (7, 0, End::TotalTokens, Some(0.0)),
            ],
            &[(8, 0, End::Answered, Some(0.9)), (9, 0, End::Answered, Some(0.9)), (10, 1, End::Answered, Some(0.9))],
            &[failed(), failed()],
        ])
    }

    fn batch(settings: GrpoSettings) -> Batch {
        let (groups, scores) = sampled();
        Batch::new(&groups, &scores, &settings, &|_| None)
    }

    #[test]
    fn the_divisor_counts_the_sampled_batch_and_only_what_has_a_part_is_computed() {
        let without_kl = batch(GrpoSettings::default());
        assert_eq!(without_kl.divisor, Divisor { sequences: 7, tokens: 4 + 5 + 6 + 8 + 9 + 10 });
        assert_eq!((without_kl.rollouts.len(), without_kl.tokens()), (2, 9));
        assert_eq!((without_kl.groups_without_signal, without_kl.groups_left_out, without_kl.masked), (2, 2, 1));
        let with_kl = batch(GrpoSettings { beta: 0.1, ..GrpoSettings::default() });
        assert_eq!(with_kl.divisor, without_kl.divisor);
        assert_eq!(
            (with_kl.rollouts.len(), with_kl.tokens()),
            (6, 42),
            "all but the truncated one has a KL divergence"
        );
        let teach =
            with_kl.rollouts.iter().filter(|rollout| rollout.advantages.iter().any(|&advantage| advantage != 0.0));
        assert_eq!(teach.count(), 2, "the others have nothing else");
        let unmasked = batch(GrpoSettings { mask_truncated_completions: false, ..GrpoSettings::default() });
        assert_eq!(unmasked.divisor, Divisor { sequences: 7, tokens: 42 + 7 });
    }

    #[test]
    fn a_rollout_that_ran_out_of_turns_is_masked_by_key() {
        let over_turn = [(3, 0, End::TurnLimit, Some(0.0)), (4, 0, End::Answered, Some(1.0))];
        let (groups, scores) = groups(&[&over_turn]);
        for (mask, rollouts, tokens) in [(false, 2, 7), (true, 1, 4)] {
            let settings = GrpoSettings { mask_over_turn_completions: mask, ..GrpoSettings::default() };
            let batch = Batch::new(&groups, &scores, &settings, &|_| None);
            assert_eq!((batch.rollouts.len(), batch.tokens(), batch.masked), (rollouts, tokens, 2 - rollouts));
            assert_eq!(batch.divisor, Divisor { sequences: 2, tokens });
        }
    }

    #[test]
    fn the_kept_denominator_counts_what_the_filters_leave() {
        for beta in [0.0, 0.1] {
            let kept = batch(GrpoSettings { loss_denominator: LossDenominator::Kept, beta, ..GrpoSettings::default() });
            assert_eq!(kept.divisor, Divisor { sequences: 2, tokens: 9 });
            assert_eq!((kept.rollouts.len(), kept.tokens()), (2, 9));
        }
    }

    #[test]
    fn tokens_at_temperature_0_have_a_divergence_by_key_and_no_advantage() {
        let settings = GrpoSettings { beta: 0.1, kl_zero_temperature_tokens: true, ..GrpoSettings::default() };
        let found = batch(settings);
        assert_eq!((found.divisor.tokens, found.tokens()), (45, 45));
        let second = &found.rollouts[1];
        assert_eq!(second.sample.trained[3..], [true; 7]);
        assert!(second.advantages[3..8].iter().all(|&advantage| advantage < 0.0), "{:?}", second.advantages);
        assert_eq!((&second.advantages[8..], &second.temperatures[8..]), (&[0.0; 2][..], &[1.0; 2][..]));
    }

    #[test]
    fn a_batch_without_advantages_teaches_only_by_its_divergence() {
        let (groups, scores) = groups(&[&[(3, 0, End::Answered, Some(0.9)), (3, 0, End::Answered, Some(0.9))]]);
        for (beta, filter, has_signal) in
            [(0.0, true, false), (0.0, false, false), (0.1, true, true), (0.1, false, true)]
        {
            let settings = GrpoSettings { beta, filter_zero_advantage: filter, ..GrpoSettings::default() };
            assert_eq!(Batch::new(&groups, &scores, &settings, &|_| None).has_signal(beta), has_signal);
        }
    }
}
