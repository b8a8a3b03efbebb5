//! From the rewards of a step's rollouts to their advantages.

use crate::recipe::{AdvantageEstimator, GrpoSettings, ScaleRewards};

/// Added to the standard deviation of rewards that advantages are divided by, as in TRL.
const EPSILON: f64 = 1e-4;
/// Added to the variance that advantages are whitened by, as in verl's `masked_whiten`.
const WHITEN_EPSILON: f64 = 1e-8;

/// What an advantage depends on.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Outcome {
    /// The total reward; `None` where it is unscored.
    pub reward: Option<f64>,
    /// Tokens of the rollout in the loss.
    pub tokens: usize,
    /// Calls of tools.
    pub calls: usize,
    /// Whether the answer is right.
    pub is_right: bool,
}

/// The advantage of each rollout of each group; `None` for the unscored. Exactly 0 in a group where a difference is needed and there is none.
pub fn advantages(groups: &[Vec<Outcome>], settings: &GrpoSettings) -> Vec<Vec<Option<f64>>> {
    let all: Vec<f64> = groups.iter().flatten().filter_map(|outcome| outcome.reward).collect();
    let divisor = |group: &[Option<f64>]| match settings.scale() {
        ScaleRewards::Group => standard_deviation(&scored(group)) + EPSILON,
        ScaleRewards::Batch => standard_deviation(&all) + EPSILON,
        ScaleRewards::None => 1.0,
    };
    let of_group = |group: &Vec<Outcome>| {
        let rewards: Vec<Option<f64>> = group.iter().map(|outcome| outcome.reward).collect();
        let deviations = deviations(&rewards, settings.advantage == AdvantageEstimator::Rloo);
        divided(deviations, divisor(&rewards))
    };
    match settings.advantage {
        AdvantageEstimator::ReinforcePlusPlus => whitened(groups, settings.scale()),
        AdvantageEstimator::Hdpo => {
            let weight = settings.tool_economy_weight;
            groups.iter().map(|group| added(of_group(group), &tool_economy(group), weight)).collect()
        }
        _ => groups.iter().map(of_group).collect(),
    }
}

/// Whether a group has a signal: two of its scored rewards are not the same number.
pub fn rewards_differ(rewards: &[Option<f64>]) -> bool {
    let mut scored = rewards.iter().flatten();
    scored.next().is_some_and(|first| scored.any(|reward| reward != first))
}

/// Each reward less the mean of its group, or of the others of its group; 0 where all are equal, whatever their mean rounds to.
fn deviations(rewards: &[Option<f64>], of_others: bool) -> Vec<Option<f64>> {
    if !rewards_differ(rewards) {
        return rewards.iter().map(|reward| reward.map(|_| 0.0)).collect();
    }
    let scored = scored(rewards);
    let count = scored.len() as f64;
    let mean = scored.iter().sum::<f64>() / count;
    let factor = if of_others { count / (count - 1.0) } else { 1.0 };
    rewards.iter().map(|reward| reward.map(|reward| (reward - mean) * factor)).collect()
}

/// The advantage in `1 / (1 + calls)` of a group's right answers among themselves, normalised as rewards are by `grpo`; 0 for the others.
fn tool_economy(group: &[Outcome]) -> Vec<Option<f64>> {
    let economy = |outcome: &Outcome| outcome.is_right.then(|| 1.0 / (1.0 + outcome.calls as f64));
    let economies: Vec<Option<f64>> = group.iter().map(economy).collect();
    divided(deviations(&economies, false), standard_deviation(&scored(&economies)) + EPSILON)
}

fn added(advantages: Vec<Option<f64>>, others: &[Option<f64>], weight: f64) -> Vec<Option<f64>> {
    let pairs = advantages.into_iter().zip(others);
    pairs.map(|(advantage, other)| advantage.map(|advantage| advantage + weight * other.unwrap_or(0.0))).collect()
}

/// Rewards less their mean over all tokens, each counted as often as its rollout has tokens, and divided by the root of their variance.
fn whitened(groups: &[Vec<Outcome>], scale: ScaleRewards) -> Vec<Vec<Option<f64>>> {
    let has_tokens = |outcome: &&Outcome| outcome.tokens > 0;
    let scored = || {
        let outcomes = groups.iter().flatten().filter(has_tokens);
        outcomes.filter_map(|outcome| Some((outcome.reward?, outcome.tokens as f64)))
    };
    let tokens: f64 = scored().map(|(_, tokens)| tokens).sum();
    let mean = scored().map(|(reward, tokens)| reward * tokens).sum::<f64>() / tokens;
    let squares: f64 = scored().map(|(reward, tokens)| (reward - mean).powi(2) * tokens).sum();
    let divisor = if scale == ScaleRewards::None { 1.0 } else { (squares / (tokens - 1.0) + WHITEN_EPSILON).sqrt() };
    // One token, or equal rewards everywhere, teach nothing, whatever their mean rounds to.
    let differs = scored().zip(scored().skip(1)).any(|(one, next)| one.0 != next.0);
    let one = |outcome: &Outcome| Some(if differs { (outcome.reward? - mean) / divisor } else { 0.0 });
    groups.iter().map(|group| group.iter().map(|outcome| outcome.reward.and(one(outcome))).collect()).collect()
}

fn divided(advantages: Vec<Option<f64>>, divisor: f64) -> Vec<Option<f64>> {
    advantages.into_iter().map(|advantage| advantage.map(|advantage| advantage / divisor)).collect()
}

fn scored(rewards: &[Option<f64>]) -> Vec<f64> {
    rewards.iter().flatten().copied().collect()
}

/// Unbiased; 0 of less than two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if count < 2.0 { 0.0 } else { (squares / (count - 1.0)).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rewards: &[Option<f64>], settings: GrpoSettings) -> Vec<Option<f64>> {
        let outcome = |reward: &Option<f64>| Outcome { reward: *reward, tokens: 3, ..Outcome::default() };
        advantages(&[rewards.iter().map(outcome).collect()], &settings).remove(0)
    }

    fn estimator(advantage: AdvantageEstimator) -> GrpoSettings {
        GrpoSettings { advantage, ..GrpoSettings::default() }
    }

    #[test]
    fn advantages_are_deviations_in_unbiased_standard_deviations() {
        let found = of(&[Some(1.0), Some(0.0), None, Some(0.5)], GrpoSettings::default());
        let std = 0.5;
        assert_eq!(found, [Some(0.5 / (std + 1e-4)), Some(-0.5 / (std + 1e-4)), None, Some(0.0)]);
        let plain = of(&[Some(1.0), Some(0.0)], estimator(AdvantageEstimator::MeanOnly));
        assert_eq!(plain, [Some(0.5), Some(-0.5)]);
    }

    #[test]
    fn equal_rewards_and_lone_rewards_teach_nothing_whatever_their_mean_rounds_to() {
        use AdvantageEstimator::{DrGrpo, Grpo, Hdpo, MeanOnly, ReinforcePlusPlus, Rloo};
        // The mean of 3, 6 or 7 equal rewards is not always that reward.
        for count in 1..=16 {
            for reward in [0.9, 0.7, 0.1, 1.0 / 3.0, 1.9, -0.9, 1e9 + 0.1, 1e-9] {
                let mut rewards = vec![Some(reward); count];
                rewards.push(None);
                assert!(!rewards_differ(&rewards), "{count} times {reward}");
                for advantage in [Grpo, MeanOnly, Rloo, DrGrpo, ReinforcePlusPlus, Hdpo] {
                    let found = of(&rewards, estimator(advantage));
                    let what = format!("{advantage:?} of {count} times {reward}: {found:?}");
                    assert!(found[..count].iter().all(|advantage| *advantage == Some(0.0)), "{what}");
                    assert_eq!(found[count], None, "{what}");
                }
            }
        }
        assert!(!rewards_differ(&[None, None]));
    }

    #[test]
    fn rewards_that_differ_by_little_teach() {
        for rewards in [[Some(0.7), Some(0.6)], [Some(0.9), Some(0.9 + 1e-9)], [Some(0.0), Some(1e-12)]] {
            assert!(rewards_differ(&rewards));
            assert!(of(&rewards, GrpoSettings::default()).iter().all(|advantage| *advantage != Some(0.0)));
        }
    }

    #[test]
    fn tool_economy_is_compared_among_right_answers_alone() {
        let outcome = |reward, calls| Outcome { reward: Some(reward), tokens: 1, calls, is_right: reward > 0.5 };
        let group = vec![outcome(1.0, 0), outcome(1.0, 3), outcome(0.0, 0), outcome(0.0, 7)];
        let plain = advantages(std::slice::from_ref(&group), &GrpoSettings::default()).remove(0);
        let hdpo = advantages(&[group], &estimator(AdvantageEstimator::Hdpo)).remove(0);
        let differences: Vec<f64> = hdpo.iter().zip(&plain).map(|(a, b)| a.unwrap() - b.unwrap()).collect();
        let economy = 0.375 / ((2.0 * 0.375_f64.powi(2)).sqrt() + 1e-4) * 0.15;
        let wanted = [economy, -economy, 0.0, 0.0];
        assert!(
            differences.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-12),
            "{differences:?}"
        );
    }
}
