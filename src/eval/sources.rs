//! Accuracy and reward of each source of tasks: of the rows with the same `data_source`, the column that verl's data sets have.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::figures::mean;
use crate::rollout::Group;
use crate::rollout::reward_set::Scores;
use crate::rollout::task::Task;

/// The reward whose score says whether an answer is right.
pub const ANSWER: &str = "answer";
/// The column that names a row's source.
const COLUMN: &str = "data_source";
/// Most sources that have a name of their own, and most bytes of it; the others are together [`OTHER`].
const SOURCES_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 64;
/// The name of what has none of its own.
const OTHER: &str = "other";

/// The sources that are told apart: the most frequent of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    names: BTreeSet<String>,
}

/// What the trajectories of one source amount to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// The source, as the rows write it, or `other`.
    pub source: String,
    /// Trajectories, scored or not.
    pub count: usize,
    /// Share of right answers among those that were scored; NaN of none.
    pub accuracy: f64,
    /// Mean total reward of the scored; NaN of none.
    pub reward: f64,
}

impl Sources {
    /// The sources of a data set's tasks, 32 at most.
    pub fn of<T: Borrow<Task>>(tasks: impl Iterator<Item = T>) -> Sources {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for task in tasks {
            if let Some(name) = source_of(task.borrow()).filter(|name| name.len() <= NAME_BYTES_MAX) {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        let mut names: Vec<(String, usize)> = counts.into_iter().collect();
        names.sort_by_key(|(_, count)| Reverse(*count));
        Sources { names: names.into_iter().take(SOURCES_MAX).map(|(name, _)| name).collect() }
    }

    /// One report for each source that the tasks have, by name; `tasks[group.task]` is a group's task. None where no row names a source.
    pub fn reports(&self, tasks: &[Task], groups: &[Group], scores: &[Vec<Scores>]) -> Vec<SourceReport> {
        let mut by_source: BTreeMap<&str, Vec<&Scores>> = BTreeMap::new();
        for (group, scores) in groups.iter().zip(scores) {
            if let Some(name) = source_of(&tasks[group.task]) {
                let name = if self.names.contains(name) { name } else { OTHER };
                by_source.entry(name).or_default().extend(scores);
            }
        }
        let report = |(source, scores): (&str, Vec<&Scores>)| {
            let answers: Vec<f64> = scores.iter().filter_map(|scores| scores.part(ANSWER)?.value()).collect();
            let totals: Vec<f64> = scores.iter().filter_map(|scores| scores.total.value()).collect();
            let (accuracy, reward) = (mean(&answers), mean(&totals));
            SourceReport { source: source.to_owned(), count: scores.len(), accuracy, reward }
        };
        by_source.into_iter().map(report).collect()
    }
}

fn source_of(task: &Task) -> Option<&str> {
    task.columns.get(COLUMN)?.as_str().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;
    use crate::rollout::reward::Score;
    use crate::rollout::trajectory::{End, Trajectory};

    fn task(source: &str) -> Task {
        let columns = serde_json::json!({ "data_source": source }).as_object().unwrap().clone();
        Task { columns, ..Task::default() }
    }

    #[test]
    fn each_source_has_its_accuracy_and_the_rarest_are_together() {
        let many = (0..40).flat_map(|i| std::iter::repeat_n(task(&format!("source {i:02}")), 40 - i));
        let long = task(&"x".repeat(100));
        let sources = Sources::of(many.chain([long.clone()]));
        assert_eq!(sources.names.len(), SOURCES_MAX);
        assert!(sources.names.contains("source 00") && !sources.names.contains("source 32"));

        let tasks = [task("source 03"), task("source 39"), long, task("source 03"), task(""), Task::default()];
        let score = |value: Option<f64>| value.map_or(Score::Unscored("nobody can tell".to_owned()), Score::Value);
        let scores = |answer: Option<f64>| Scores {
            total: score(answer.map(|answer| answer + 0.5)),
            parts: vec![(ANSWER, score(answer))],
        };
        let groups: Vec<Group> = (0..tasks.len())
            .map(|task| Group {
                task,
                trajectories: vec![Trajectory::of_prompt(&Prompt::default(), task, 0, 0, End::Answered); 2],
            })
            .collect();
        let answers = [
            [Some(1.0), Some(0.0)],
            [Some(0.0), Some(0.0)],
            [Some(1.0), None],
            [Some(1.0), Some(1.0)],
            [Some(1.0), Some(1.0)],
            [Some(1.0), Some(1.0)],
        ];
        let scores: Vec<Vec<Scores>> = answers.iter().map(|pair| pair.map(scores).to_vec()).collect();
        let report = |source: &str, accuracy: f64| SourceReport {
            source: source.to_owned(),
            count: 4,
            accuracy,
            reward: accuracy + 0.5,
        };
        let wanted = [report(OTHER, 1.0 / 3.0), report("source 03", 0.75)];
        let found = sources.reports(&tasks, &groups, &scores);
        assert_eq!(found.len(), 2);
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_eq!((&found.source, found.count, found.accuracy), (&wanted.source, 4, wanted.accuracy));
            assert!((found.reward - wanted.reward).abs() < 1e-12);
        }
        assert!(Sources::default().reports(&tasks[4..], &[], &[]).is_empty());
    }
}
