//! What a step of GRPO learns from: rollouts with their advantages, and what their loss is divided by.
//!
//! As in TRL, the loss is over the batch that was sampled: a rollout that is masked, unscored, or of a group without differing rewards
//! has no part in the policy gradient, but counts in the divisor, and the KL divergence is taken of all that is not masked. What adds
//! nothing to the loss is not computed.

use super::advantage::{Outcome, advantages, rewards_differ};
use super::loss::Divisor;
pub use super::training_sample::BatchSettings;
use super::training_sample::{TrainingSample, policy_tokens};
use crate::eval::sources::ANSWER;
use crate::recipe::{GrpoSettings, LossDenominator};
use crate::rollout::Group;
use crate::rollout::reward::Score;
use crate::rollout::reward_set::Scores;
use crate::rollout::trajectory::Trajectory;

/// What a step learns from.
#[derive(Debug, Default)]
pub struct Batch {
    /// A part for each update of an iteration.
    pub(super) mini_batches: Vec<MiniBatch>,
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
    /// Rollouts of earlier steps among those that are learned from.
    pub replayed: usize,
    /// Mean KL divergence of a token where it is taken off the reward; NaN elsewhere.
    pub kl_in_reward: f64,
}

/// A group with the scores of its trajectories.
#[derive(Clone, Copy, Debug)]
pub struct ScoredGroup<'a> {
    /// The trajectories of one task.
    pub group: &'a Group,
    /// Theirs, in order.
    pub scores: &'a [Scores],
}

impl ScoredGroup<'_> {
    /// Groups with their scores.
    pub fn of<'a>(groups: &'a [Group], scores: &'a [Vec<Scores>]) -> Vec<ScoredGroup<'a>> {
        groups.iter().zip(scores).map(|(group, scores)| ScoredGroup { group, scores }).collect()
    }
}

/// What the KL divergence takes off the rewards of a step.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct KlOfRollouts {
    /// Of each trajectory of each group, summed over the tokens that it learns.
    pub sums: Vec<Vec<f64>>,
    /// Tokens that they are summed over.
    pub tokens: usize,
}

impl KlOfRollouts {
    /// Mean of a token; NaN of none.
    pub fn mean(&self) -> f64 {
        self.sums.iter().flatten().sum::<f64>() / self.tokens as f64
    }
}

/// What one update learns from.
#[derive(Debug, Default)]
pub(super) struct MiniBatch {
    /// Rollouts with something to compute.
    pub rollouts: Vec<TrainingSample>,
    /// What their losses are divided by.
    pub divisor: Divisor,
    /// Entropies of all tokens with a policy gradient, when they were sampled.
    entropies: Vec<f32>,
    /// How many of them are left such by `top_entropy_quantile`.
    pub entropy_tokens: usize,
}

impl Batch {
    /// The groups that a step learns from, in order. `kl` is given where the KL divergence is taken off the reward.
    pub fn new(groups: &[ScoredGroup<'_>], kl: Option<&KlOfRollouts>, settings: BatchSettings<'_>) -> Batch {
        let kl_in_reward = kl.map_or(f64::NAN, KlOfRollouts::mean);
        let mut batch = Batch { groups: groups.len(), kl_in_reward, ..Batch::default() };
        let outcomes = outcomes(groups, kl, settings);
        let advantages = advantages(&outcomes, settings.grpo);
        let parts = settings.grpo.num_mini_batches.max(1);
        for part in 0..parts {
            let members = part * groups.len() / parts..(part + 1) * groups.len() / parts;
            let mut mini_batch = MiniBatch::default();
            for ((group, outcomes), advantages) in
                groups[members.clone()].iter().zip(&outcomes[members.clone()]).zip(&advantages[members])
            {
                batch.push_group(&mut mini_batch, group.group, outcomes, advantages, settings);
            }
            mini_batch.keep_top_entropies(settings.grpo.top_entropy_quantile);
            batch.mini_batches.push(mini_batch);
        }
        batch
    }

    fn push_group(
        &mut self,
        mini_batch: &mut MiniBatch,
        group: &Group,
        outcomes: &[Outcome],
        advantages: &[Option<f64>],
        settings: BatchSettings<'_>,
    ) {
        let rewards: Vec<Option<f64>> = outcomes.iter().map(|outcome| outcome.reward).collect();
        let is_zero = advantages.iter().flatten().all(|advantage| *advantage == 0.0);
        let is_left_out = settings.grpo.filter_zero_advantage && is_zero;
        self.groups_without_signal += usize::from(!rewards_differ(&rewards));
        self.groups_left_out += usize::from(is_left_out);
        self.advantages.extend(advantages.iter().flatten());
        for (trajectory, advantage) in group.trajectories.iter().zip(advantages) {
            let is_masked = is_masked(trajectory, settings.grpo);
            self.masked += usize::from(is_masked);
            mini_batch.push(trajectory, advantage.filter(|_| !is_left_out), is_masked, settings);
        }
    }

    /// Tokens that are computed for each iteration.
    pub fn tokens(&self) -> usize {
        self.mini_batches.iter().map(MiniBatch::tokens).sum()
    }

    /// Whether the loss has a gradient: some token has an advantage, or a part without one.
    pub fn has_signal(&self, grpo: &GrpoSettings) -> bool {
        let has_more = grpo.has_loss_without_advantage();
        let is_learned = |advantage: Option<f64>| has_more || advantage.is_some_and(|advantage| advantage != 0.0);
        let has_part = |rollout: &TrainingSample| rollout.sample.targets().any(|i| is_learned(rollout.advantages[i]));
        self.mini_batches.iter().flat_map(|mini_batch| &mini_batch.rollouts).any(has_part)
    }
}

impl MiniBatch {
    /// Adds a rollout; without an advantage it has no part in the policy gradient.
    fn push(&mut self, trajectory: &Trajectory, advantage: Option<f64>, is_masked: bool, settings: BatchSettings<'_>) {
        let grpo = settings.grpo;
        let has_more = grpo.has_loss_without_advantage() && grpo.loss_denominator == LossDenominator::Sampled;
        let training_sample = TrainingSample::new(trajectory, advantage.unwrap_or(0.0), settings);
        let tokens = training_sample.sample.targets().count();
        let is_computed = tokens > 0 && !is_masked && (advantage.is_some() || has_more);
        if is_computed || (!is_masked && grpo.loss_denominator == LossDenominator::Sampled) {
            let has_gradient = |&i: &usize| training_sample.advantages[i].is_some();
            let entropies = training_sample.sample.targets().filter(has_gradient).map(|i| training_sample.entropies[i]);
            self.entropies.extend(entropies);
        }
        match grpo.loss_denominator {
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

    /// Adds a rollout of an earlier step.
    pub fn push_replayed(&mut self, rollout: TrainingSample) {
        self.divisor.sequences += 1;
        self.divisor.tokens += rollout.sample.targets().count();
        self.entropy_tokens += rollout.advantages.iter().flatten().count();
        self.rollouts.push(rollout);
    }

    /// Takes the policy gradient from tokens whose entropy is below the quantile, as TRL's `get_high_entropy_mask` has it.
    fn keep_top_entropies(&mut self, share: f64) {
        self.entropy_tokens = self.entropies.len();
        if share >= 1.0 || self.entropies.is_empty() {
            return;
        }
        let least = quantile(self.entropies.clone(), 1.0 - share);
        self.entropy_tokens = self.entropies.iter().filter(|entropy| f64::from(**entropy) >= least).count();
        for rollout in &mut self.rollouts {
            for (advantage, entropy) in rollout.advantages.iter_mut().zip(&rollout.entropies) {
                *advantage = advantage.filter(|_| f64::from(*entropy) >= least);
            }
        }
    }

    /// Tokens that are computed for an update.
    pub fn tokens(&self) -> usize {
        self.rollouts.iter().map(|rollout| rollout.sample.targets().count()).sum()
    }
}

/// The quantile of some values, between two of them by their distance, as torch has it.
fn quantile(mut values: Vec<f32>, share: f64) -> f64 {
    values.sort_by(f32::total_cmp);
    let place = share * (values.len() - 1) as f64;
    let [below, above] = [place.floor(), place.ceil()].map(|place| f64::from(values[place as usize]));
    below + (above - below) * place.fract()
}

/// Whether a filter leaves a rollout out of the loss.
fn is_masked(trajectory: &Trajectory, grpo: &GrpoSettings) -> bool {
    (grpo.mask_truncated_completions && trajectory.end.is_truncated())
        || (grpo.mask_over_turn_completions && trajectory.end.is_over_turn())
}

/// What the advantages of a step depend on.
fn outcomes(groups: &[ScoredGroup<'_>], kl: Option<&KlOfRollouts>, settings: BatchSettings<'_>) -> Vec<Vec<Outcome>> {
    let grpo = settings.grpo;
    let outcome = |group: usize, member: usize| {
        let (trajectory, scores) = (&groups[group].group.trajectories[member], &groups[group].scores[member]);
        let penalty = kl.map_or(0.0, |kl| grpo.beta * kl.sums[group][member]);
        let is_masked = is_masked(trajectory, grpo);
        Outcome {
            reward: scores.total.value().map(|reward| reward - penalty),
            tokens: if is_masked { 0 } else { policy_tokens(trajectory, settings).count() },
            calls: trajectory.calls.len(),
            is_right: scores.part(ANSWER).and_then(Score::value).is_some_and(|value| value > 0.5),
        }
    };
    let of_group = |group: usize| (0..groups[group].scores.len()).map(|member| outcome(group, member)).collect();
    (0..groups.len()).map(of_group).collect()
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

    fn batch_of((groups, scores): &(Vec<Group>, Vec<Vec<Scores>>), grpo: &GrpoSettings) -> Batch {
        Batch::new(
            &ScoredGroup::of(groups, scores),
            None,
            BatchSettings { grpo, features: &|_| None, placeholders: &[] },
        )
    }

    fn batch(settings: GrpoSettings) -> Batch {
        batch_of(&sampled(), &settings)
    }

    impl Batch {
        /// What an update learns from, where there is one.
        fn only(&self) -> &MiniBatch {
            let [only] = &self.mini_batches[..] else { panic!("several mini-batches") };
            only
        }
    }

    #[test]
    fn the_divisor_counts_the_sampled_batch_and_only_what_has_a_part_is_computed() {
        let without_kl = batch(GrpoSettings::default());
        assert_eq!(without_kl.only().divisor, Divisor { sequences: 7, tokens: 4 + 5 + 6 + 8 + 9 + 10 });
        assert_eq!((without_kl.only().rollouts.len(), without_kl.tokens()), (2, 9));
        assert_eq!((without_kl.groups_without_signal, without_kl.groups_left_out, without_kl.masked), (2, 2, 1));
        let with_kl = batch(GrpoSettings { beta: 0.1, ..GrpoSettings::default() });
        assert_eq!(with_kl.only().divisor, without_kl.only().divisor);
        assert_eq!(
            (with_kl.only().rollouts.len(), with_kl.tokens()),
            (6, 42),
            "all but the truncated one has a KL divergence"
        );
        let teach = with_kl.only().rollouts.iter().filter(|rollout| {
            rollout.advantages.iter().any(|&advantage| advantage.is_some_and(|advantage| advantage != 0.0))
        });
        assert_eq!(teach.count(), 2, "the others have nothing else");
        let unmasked = batch(GrpoSettings { mask_truncated_completions: false, ..GrpoSettings::default() });
        assert_eq!(unmasked.only().divisor, Divisor { sequences: 7, tokens: 42 + 7 });
    }

    #[test]
    fn a_rollout_that_ran_out_of_turns_is_masked_by_key() {
        let over_turn = [(3, 0, End::TurnLimit, Some(0.0)), (4, 0, End::Answered, Some(1.0))];
        let rolled_out = groups(&[&over_turn]);
        for (mask, rollouts, tokens) in [(false, 2, 7), (true, 1, 4)] {
            let settings = GrpoSettings { mask_over_turn_completions: mask, ..GrpoSettings::default() };
            let batch = batch_of(&rolled_out, &settings);
            assert_eq!((batch.only().rollouts.len(), batch.tokens(), batch.masked), (rollouts, tokens, 2 - rollouts));
            assert_eq!(batch.only().divisor, Divisor { sequences: 2, tokens });
        }
    }

    #[test]
    fn the_kept_denominator_counts_what_the_filters_leave() {
        for beta in [0.0, 0.1] {
            let kept = batch(GrpoSettings { loss_denominator: LossDenominator::Kept, beta, ..GrpoSettings::default() });
            assert_eq!(kept.only().divisor, Divisor { sequences: 2, tokens: 9 });
            assert_eq!((kept.only().rollouts.len(), kept.tokens()), (2, 9));
        }
    }

    #[test]
    fn tokens_at_temperature_0_have_a_divergence_by_key_and_no_advantage() {
        let settings = GrpoSettings { beta: 0.1, kl_zero_temperature_tokens: true, ..GrpoSettings::default() };
        let found = batch(settings);
        assert_eq!((found.only().divisor.tokens, found.tokens()), (45, 45));
        let second = &found.only().rollouts[1];
        assert_eq!(second.sample.trained[3..], [true; 7]);
        assert!(second.advantages[3..8].iter().all(|&advantage| advantage < Some(0.0)), "{:?}", second.advantages);
        assert_eq!((&second.advantages[8..], &second.temperatures[8..]), (&[None; 2][..], &[1.0; 2][..]));
    }

    #[test]
    fn a_batch_without_advantages_teaches_only_by_its_divergence() {
        let rolled_out = groups(&[&[(3, 0, End::Answered, Some(0.9)), (3, 0, End::Answered, Some(0.9))]]);
        for (beta, filter, has_signal) in
            [(0.0, true, false), (0.0, false, false), (0.1, true, true), (0.1, false, true)]
        {
            let settings = GrpoSettings { beta, filter_zero_advantage: filter, ..GrpoSettings::default() };
            assert_eq!(batch_of(&rolled_out, &settings).has_signal(&settings), has_signal);
        }
    }
}
