//! What the groups of a step amount to: how hard their tasks are, and which rewards tell their members apart.

use super::figures::mean;
use super::sources::ANSWER;
use crate::rollout::reward_set::Scores;

/// Pixel Reasoner's thresholds of a group's mean score (its `experience_maker.py`): easy above the first, hard below the second.
const EASY_ABOVE: f64 = 0.7;
const HARD_BELOW: f64 = 0.35;
/// Its thresholds of a group that is solved by all, and by none.
const SOLVED_ABOVE: f64 = 0.95;
const UNSOLVED_BELOW: f64 = 0.05;
/// Its groups are saturated whose rewards differ from their mean by less than this, on average.
const SATURATED_BELOW: f64 = 0.01;

/// Shares of the groups of a step; NaN of none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupReport {
    /// For each reward, by name: share of all groups in which no two of its scores differ.
    pub parts_zero_std: Vec<(&'static str, f64)>,
    /// Share with a mean answer score above 0.7, of the groups with a scored answer.
    pub easy: f64,
    /// Share with one from 0.35 to 0.7.
    pub medium: f64,
    /// Share with one below 0.35.
    pub hard: f64,
    /// Share with one above 0.95.
    pub solve_all: f64,
    /// Share with one below 0.05.
    pub solve_none: f64,
    /// Share whose total rewards lie within 0.01 of their mean on average, of the groups with a scored reward.
    pub initial_saturation: f64,
}

impl GroupReport {
    /// Adds up the scores of a step, group by group.
    pub fn new(groups: &[Vec<Scores>]) -> GroupReport {
        let names = groups
            .iter()
            .flatten()
            .next()
            .map_or_else(Vec::new, |scores| scores.parts.iter().map(|(name, _)| *name).collect());
        let of_part = |group: &[Scores], name: &str| -> Vec<f64> {
            group.iter().filter_map(|scores| scores.part(name)?.value()).collect()
        };
        let is_flat = |scores: &[f64]| scores.iter().all(|score| *score == scores[0]);
        let zero_std = |name: &'static str| {
            let flat = groups.iter().filter(|group| is_flat(&of_part(group, name))).count();
            (name, flat as f64 / groups.len() as f64)
        };
        let rates: Vec<f64> = groups.iter().map(|group| pass_rate(group)).filter(|rate| !rate.is_nan()).collect();
        let share =
            |is_one: fn(f64) -> bool| rates.iter().filter(|rate| is_one(**rate)).count() as f64 / rates.len() as f64;
        let totals = groups.iter().map(|group| group.iter().filter_map(|scores| scores.total.value()).collect());
        let scored: Vec<Vec<f64>> = totals.filter(|totals: &Vec<f64>| !totals.is_empty()).collect();
        let saturated = scored.iter().filter(|totals| mean_deviation(totals) < SATURATED_BELOW).count();
        GroupReport {
            parts_zero_std: names.into_iter().map(zero_std).collect(),
            easy: share(|rate| rate > EASY_ABOVE),
            medium: share(|rate| (HARD_BELOW..=EASY_ABOVE).contains(&rate)),
            hard: share(|rate| rate < HARD_BELOW),
            solve_all: share(|rate| rate > SOLVED_ABOVE),
            solve_none: share(|rate| rate < UNSOLVED_BELOW),
            initial_saturation: saturated as f64 / scored.len() as f64,
        }
    }
}

/// The mean answer score of a group, which is the share of right answers among those that were scored; NaN of none.
pub fn pass_rate(group: &[Scores]) -> f64 {
    mean(&group.iter().filter_map(|scores| scores.part(ANSWER)?.value()).collect::<Vec<_>>())
}

/// Mean of the distances from the mean.
fn mean_deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    mean(&values.iter().map(|value| (value - center).abs()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::reward::Score;

    fn group(answers: &[Option<f64>], formats: &[f64]) -> Vec<Scores> {
        let score = |value: Option<f64>| value.map_or(Score::Unscored("nobody can tell".to_owned()), Score::Value);
        let scores = answers.iter().zip(formats).map(|(answer, format)| Scores {
            total: score(answer.map(|answer| answer + format / 1000.0)),
            parts: vec![("format", score(Some(*format))), (ANSWER, score(*answer))],
        });
        scores.collect()
    }

    #[test]
    fn groups_are_sorted_by_how_many_of_their_answers_are_right() {
        let [right, wrong] = [Some(1.0), Some(0.0)];
        let groups = [
            group(&[right, right, right, right], &[1.0, 1.0, 0.0, 1.0]),
            group(&[right, right, right, wrong], &[1.0; 4]),
            group(&[right, wrong, right, wrong], &[1.0; 4]),
            group(&[right, wrong, wrong, wrong], &[1.0; 4]),
            group(&[wrong; 4], &[1.0; 4]),
            group(&[None; 4], &[1.0; 4]),
        ];
        let found = GroupReport::new(&groups);
        assert_eq!(
            [found.easy, found.medium, found.hard],
            [2.0 / 5.0, 1.0 / 5.0, 2.0 / 5.0],
            "of those with an answer"
        );
        assert_eq!([found.solve_all, found.solve_none], [1.0 / 5.0; 2]);
        assert_eq!(found.initial_saturation, 2.0 / 5.0, "a thousandth is no difference");
        assert_eq!(found.parts_zero_std, [("format", 5.0 / 6.0), (ANSWER, 3.0 / 6.0)]);
    }

    #[test]
    fn what_no_group_has_is_no_share() {
        let found = GroupReport::new(&[group(&[None; 2], &[0.0; 2])]);
        assert!(found.easy.is_nan() && found.solve_none.is_nan() && found.initial_saturation.is_nan());
        let none = GroupReport::new(&[]);
        assert!(none.parts_zero_std.is_empty() && none.medium.is_nan());
    }
}
