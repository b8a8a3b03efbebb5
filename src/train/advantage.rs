//! Advantages relative to a group (Shao et al. 2024).

/// Added to the standard deviation that advantages are divided by.
const EPSILON: f64 = 1e-4;

/// `reward − mean` of the group's scored rewards, divided by their unbiased standard deviation (plus 1e-4) if `scale`; exactly 0 where
/// all are equal. The unscored have none.
pub fn group_advantages(rewards: &[Option<f64>], scale: bool) -> Vec<Option<f64>> {
    if !rewards_differ(rewards) {
        return rewards.iter().map(|reward| reward.map(|_| 0.0)).collect();
    }
    let scored: Vec<f64> = rewards.iter().flatten().copied().collect();
    let count = scored.len() as f64;
    let mean = scored.iter().sum::<f64>() / count;
    let variance = scored.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let divisor = if scale { variance.sqrt() + EPSILON } else { 1.0 };
    rewards.iter().map(|reward| reward.map(|reward| (reward - mean) / divisor)).collect()
}

/// Whether a group has a signal: two of its scored rewards are not the same number.
pub fn rewards_differ(rewards: &[Option<f64>]) -> bool {
    let mut scored = rewards.iter().flatten();
    scored.next().is_some_and(|first| scored.any(|reward| reward != first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_deviations_in_unbiased_standard_deviations() {
        let advantages = group_advantages(&[Some(1.0), Some(0.0), None, Some(0.5)], true);
        let std = 0.5;
        assert_eq!(advantages, [Some(0.5 / (std + 1e-4)), Some(-0.5 / (std + 1e-4)), None, Some(0.0)]);
        assert_eq!(group_advantages(&[Some(1.0), Some(0.0)], false), [Some(0.5), Some(-0.5)]);
    }

    #[test]
    fn equal_rewards_and_lone_rewards_teach_nothing_whatever_their_mean_rounds_to() {
        // The mean of 3, 6 or 7 equal rewards is not always that reward.
        for count in 1..=16 {
            for reward in [0.9, 0.7, 0.1, 1.0 / 3.0, 1.9, -0.9, 1e9 + 0.1, 1e-9] {
                let mut rewards = vec![Some(reward); count];
                rewards.push(None);
                assert!(!rewards_differ(&rewards), "{count} times {reward}");
                let advantages = group_advantages(&rewards, true);
                assert!(advantages[..count].iter().all(|advantage| *advantage == Some(0.0)), "{count} times {reward}");
                assert_eq!(advantages[count], None);
            }
        }
        assert!(!rewards_differ(&[None, None]));
    }

    #[test]
    fn rewards_that_differ_by_little_teach() {
        for rewards in [[Some(0.7), Some(0.6)], [Some(0.9), Some(0.9 + 1e-9)], [Some(0.0), Some(1e-12)]] {
            assert!(rewards_differ(&rewards));
            assert!(group_advantages(&rewards, true).iter().all(|advantage| *advantage != Some(0.0)));
        }
    }
}
