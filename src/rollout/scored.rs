//! Rolls out and scores: a group is scored on a worker thread as soon as its last sequence has ended, while the others decode. What a reward
//! waits for, such as a judge, costs time only behind the last groups.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tracing::debug_span;

use super::environment::Environment;
use super::error::RolloutError;
use super::generator::Generator;
use super::reward_set::{RewardSet, Scores};
use super::settings::RolloutSettings;
use super::task::Task;
use super::{Group, ToolWait, run_groups};
use crate::prompt::Processor;

/// Rollouts with their scores.
#[derive(Debug, Default)]
pub struct Rollouts {
    /// The groups in the order of the tasks.
    pub groups: Vec<Group>,
    /// The scores of each group's trajectories.
    pub scores: Vec<Vec<Scores>>,
    /// How long tools ran.
    pub tool_wait: ToolWait,
}

impl Rollouts {
    /// Adds the rollouts of tasks that stand behind those of these.
    pub fn add(&mut self, more: Rollouts) {
        let first = self.groups.len();
        self.groups.extend(more.groups.into_iter().map(|group| Group { task: first + group.task, ..group }));
        self.scores.extend(more.scores);
        self.tool_wait.hidden += more.tool_wait.hidden;
        self.tool_wait.open += more.tool_wait.open;
    }
}

/// Rolls out as [`super::run`] does; the scores are those of [`RewardSet::score_groups`].
///
/// # Errors
/// As [`super::run`].
pub fn run_scored(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    settings: &RolloutSettings,
    rewards: &RewardSet,
) -> Result<Rollouts, RolloutError> {
    let (ended, to_score) = channel();
    let (tell, scored) = channel();
    let to_score = Mutex::new(to_score);
    thread::scope(|scope| {
        for _ in 0..rewards.threads().min(tasks.len()) {
            let (tell, to_score) = (tell.clone(), &to_score);
            scope.spawn(move || {
                while let Some(group) = next(to_score) {
                    let _span = debug_span!("score", task = group.task).entered();
                    let scores = rewards.score_rollouts(&group, &tasks[group.task]);
                    if tell.send((group, scores)).is_err() {
                        return;
                    }
                }
            });
        }
        // The threads end when nobody can send them a group any more, and what they tell ends with them.
        drop(tell);
        let mut score = |group| ended.send(group).expect("the receiver lives as long as this function");
        let rolled_out = run_groups(generator, processor, environment, tasks, settings, &mut score);
        drop(ended);
        let tool_wait = rolled_out?;
        let mut scored: Vec<(Group, Vec<Scores>)> = scored.iter().collect();
        scored.sort_by_key(|(group, _)| group.task);
        let (groups, scores) = scored.into_iter().unzip();
        Ok(Rollouts { groups, scores, tool_wait })
    })
}

fn next(to_score: &Mutex<Receiver<Group>>) -> Option<Group> {
    to_score.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
