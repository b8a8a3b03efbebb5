//! Which of the groups that a step rolled out it learns from.

use crate::recipe::{GrpoSettings, Refill};
use crate::train::advantage::{rewards_differ, standard_deviation};
use crate::train::batch::ScoredGroup;

/// The groups that a step learns from, in the order in which they were drawn.
///
/// With several generation batches these are the first that have a signal, at most `prompts_per_step`. Of an oversampled batch they are those whose
/// rewards differ most, broken ones last: groups with a rollout that was cut off, or could not be played (PyVision-RL, 2026). `refill = "repeat"` puts
/// copies of groups with a signal in place of those without (Pixel Reasoner, 2025).
pub fn select<'a>(groups: &[ScoredGroup<'a>], grpo: &GrpoSettings) -> Vec<ScoredGroup<'a>> {
    let mut chosen: Vec<usize> = (0..groups.len()).collect();
    if grpo.max_num_gen_batches > 1 {
        chosen.retain(|&number| has_signal(&groups[number]));
    }
    if grpo.oversampling > 1.0 {
        let rank = |&number: &usize| (is_broken(&groups[number]), -standard_deviation(&rewards(&groups[number])));
        chosen.sort_by(|one, other| {
            let ((one_broken, one), (other_broken, other)) = (rank(one), rank(other));
            one_broken.cmp(&other_broken).then(one.total_cmp(&other))
        });
    }
    chosen.truncate(grpo.prompts_per_step);
    chosen.sort_unstable();
    if grpo.refill == Refill::Repeat {
        repeat(&mut chosen, |number| has_signal(&groups[number]));
    }
    chosen.into_iter().map(|number| groups[number]).collect()
}

/// Whether a step has what it needs of the groups that it rolled out so far.
pub fn has_enough(groups: &[ScoredGroup<'_>], grpo: &GrpoSettings) -> bool {
    groups.iter().filter(|group| has_signal(group)).count() >= grpo.prompts_per_step
}

/// Puts those that are useful, in turn, in place of the others.
fn repeat(chosen: &mut [usize], is_useful: impl Fn(usize) -> bool) {
    let useful: Vec<usize> = chosen.iter().copied().filter(|&number| is_useful(number)).collect();
    let mut in_turn = useful.iter().cycle();
    for number in chosen.iter_mut().filter(|number| !is_useful(**number)) {
        *number = in_turn.next().copied().unwrap_or(*number);
    }
}

fn has_signal(group: &ScoredGroup<'_>) -> bool {
    rewards_differ(&group.scores.iter().map(|scores| scores.total.value()).collect::<Vec<_>>())
}

fn rewards(group: &ScoredGroup<'_>) -> Vec<f64> {
    group.scores.iter().filter_map(|scores| scores.total.value()).collect()
}

fn is_broken(group: &ScoredGroup<'_>) -> bool {
    group.group.trajectories.iter().any(|trajectory| trajectory.end.is_fault() || trajectory.end.is_truncated())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;
    use crate::rollout::Group;
    use crate::rollout::reward::Score;
    use crate::rollout::reward_set::Scores;
    use crate::rollout::trajectory::{End, Trajectory};

    /// Of groups with these rewards the numbers of those that are chosen; a group with -1 was cut off.
    fn chosen(groups: &[[f64; 2]], grpo: GrpoSettings) -> Vec<usize> {
        let end = |reward: f64| if reward < 0.0 { End::TotalTokens } else { End::Answered };
        let member = |reward: &f64| Trajectory::of_prompt(&Prompt::default(), 0, 0, 0, end(*reward));
        let score = |reward: &f64| Scores { total: Score::Value(*reward), parts: Vec::new() };
        let of_task =
            |(task, rewards): (usize, &[f64; 2])| Group { task, trajectories: rewards.iter().map(member).collect() };
        let all: Vec<Group> = groups.iter().enumerate().map(of_task).collect();
        let scores: Vec<Vec<Scores>> = groups.iter().map(|rewards| rewards.iter().map(score).collect()).collect();
        select(&ScoredGroup::of(&all, &scores), &grpo).iter().map(|chosen| chosen.group.task).collect()
    }

    #[test]
    fn groups_are_kept_ranked_or_repeated_by_key() {
        let groups = [[1.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.5, 1.0], [-1.0, 1.0], [0.0, 0.8]];
        let plain = GrpoSettings { prompts_per_step: 6, ..GrpoSettings::default() };
        assert_eq!(chosen(&groups, plain.clone()), [0, 1, 2, 3, 4, 5]);
        let dynamic = GrpoSettings { prompts_per_step: 3, max_num_gen_batches: 4, ..plain.clone() };
        assert_eq!(chosen(&groups, dynamic), [1, 3, 4]);
        let oversampled = GrpoSettings { prompts_per_step: 3, oversampling: 2.0, ..plain.clone() };
        assert_eq!(chosen(&groups, oversampled), [1, 3, 5]);
        let repeated = GrpoSettings { refill: Refill::Repeat, ..plain.clone() };
        assert_eq!(chosen(&groups, repeated.clone()), [1, 1, 3, 3, 4, 5]);
        assert_eq!(chosen(&groups[2..3], repeated), [0], "where nothing has a signal nothing is repeated");
    }
}
