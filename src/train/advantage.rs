//! Advantages relative to a group (Shao et al. 2024).

/// Added to the standard deviation that advantages are divided by.
const EPSILON: f64 = 1e-4;

/// `reward − mean` of the group's scored rewards, divided by their unbiased standard deviation (plus 1e-4) if `scale`. The unscored
/// have none.
pub fn group_advantages(rewards: &[Option<f64>], scale: bool) -> Vec<Option<f64>> {
    let scored: Vec<f64> = rewards.iter().flatten().copied().collect();
    let count = scored.len() as f64;
    let mean = scored.iter().sum::<f64>() / count;
    let variance = scored.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let divisor = if scale { variance.sqrt() + EPSILON } else { 1.0 };
    rewards.iter().map(|reward| reward.map(|reward| (reward - mean) / divisor)).collect()
}

/// Whether a group teaches anything: some advantage is not zero.
pub fn teaches(advantages: &[Option<f64>]) -> bool {
    advantages.iter().flatten().any(|a| a.abs() > 1e-12)
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
    fn equal_rewards_and_lone_rewards_teach_nothing() {
        assert!(!teaches(&group_advantages(&[Some(0.7), Some(0.7)], true)));
        assert!(!teaches(&group_advantages(&[Some(0.7), None], true)));
        assert!(teaches(&group_advantages(&[Some(0.7), Some(0.6)], true)));
    }
}
