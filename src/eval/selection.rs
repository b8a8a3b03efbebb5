//! Which rollouts of a task are worth learning from: rejection sampling, whose accepted rollouts become demonstrations (RAFT, Dong et al. 2023;
//! rejection sampling fine-tuning, Yuan et al. 2023).

use std::collections::BTreeSet;

use crate::rollout::Group;
use crate::rollout::reward_set::Scores;
use crate::rollout::trajectory::{End, Trajectory};

/// The trajectories of a group that the model ended itself, and whose total reward is at least `min_reward`: those with the fewest tokens after the prompt
/// first, in the order of the group where they have as many, and each sequence of tokens once. An unscored one is not accepted.
pub fn accepted<'a>(group: &'a Group, scores: &[Scores], min_reward: f64) -> Vec<&'a Trajectory> {
    let has_ended = |trajectory: &Trajectory| matches!(trajectory.end, End::Answered | End::EndOfTurn);
    let is_good = |scores: &Scores| scores.total.value().is_some_and(|reward| reward >= min_reward);
    let mut seen = BTreeSet::new();
    let mut accepted: Vec<&Trajectory> = group
        .trajectories
        .iter()
        .zip(scores)
        .filter(|(trajectory, scores)| has_ended(trajectory) && is_good(scores) && seen.insert(&trajectory.token_ids))
        .map(|(trajectory, _)| trajectory)
        .collect();
    accepted.sort_by_key(|trajectory| trajectory.completion_tokens());
    accepted
}
