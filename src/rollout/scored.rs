//! Rolls out and scores: what waits for somebody, such as a judge, is scored on a worker thread as soon as a trajectory has ended, the rest as soon as the
//! last of its group has, while the others decode. So the wait for a judge costs time only behind the last trajectories.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::debug_span;

use super::agent_loop::Update;
use super::environment::Environment;
use super::error::RolloutError;
use super::generator::Generator;
use super::judge::JudgeCounts;
use super::reward_set::{Parts, RewardSet, Scores};
use super::settings::RolloutSettings;
use super::task::Task;
use super::trajectory::Trajectory;
use super::{Group, ToolWait, run_watched};
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
    /// What the judge was asked; `None` where there is none.
    pub judge: Option<JudgeCounts>,
    /// How long groups were scored.
    pub scoring_time: ScoringTime,
}

/// Time in which groups were scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoringTime {
    /// While sequences were rolled out, added up over the threads that score.
    pub hidden: Duration,
    /// When all sequences had ended: what it costs.
    pub open: Duration,
}

impl Rollouts {
    /// Adds the rollouts of tasks that stand behind those of these.
    pub fn add(&mut self, more: Rollouts) {
        let first = self.groups.len();
        self.groups.extend(more.groups.into_iter().map(|group| Group { task: first + group.task, ..group }));
        self.scores.extend(more.scores);
        self.tool_wait.hidden += more.tool_wait.hidden;
        self.tool_wait.open += more.tool_wait.open;
        self.scoring_time.hidden += more.scoring_time.hidden;
        self.scoring_time.open += more.scoring_time.open;
        match (&mut self.judge, more.judge) {
            (Some(judge), Some(more)) => judge.add(more),
            (judge, more) => *judge = judge.take().or(more),
        }
    }
}

/// The trajectories of a group that have ended, with what was scored of each early.
type Ended = Vec<(Trajectory, Parts)>;

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
    // What others asked is not of these rollouts.
    rewards.take_judge_counts();
    let (ended, to_score) = channel();
    let (tell, scored) = channel();
    let (to_score, open) = (Mutex::new(to_score), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..rewards.threads().min(tasks.len() * settings.group_size) {
            let (tell, to_score, open) = (tell.clone(), &to_score, &open);
            scope.spawn(move || {
                while let Some(trajectory) = next(to_score) {
                    let (task, began) = (trajectory.task, Instant::now());
                    let early = rewards.score_early(&trajectory, &tasks[task]);
                    let Some(ended) = joined(open, trajectory, early, settings.group_size) else { continue };
                    let _span = debug_span!("score", task).entered();
                    let (trajectories, early): (Vec<Trajectory>, Vec<Parts>) = ended.into_iter().unzip();
                    let group = Group { task, trajectories };
                    let scores = rewards.score_rollouts(&group, &tasks[task], &early);
                    if tell.send((group, scores, began..Instant::now())).is_err() {
                        return;
                    }
                }
            });
        }
        // The threads end when nobody can send them a trajectory any more, and what they tell ends with them.
        drop(tell);
        let mut score = |update: Update<'_>| {
            if let Update::Finished(trajectory) = update {
                ended.send(*trajectory).expect("the receiver lives as long as this function");
            }
            ControlFlow::Continue(())
        };
        let rolled_out = run_watched(generator, processor, environment, &tasks, settings, &mut score);
        drop(ended);
        let (tool_wait, all_ended) = (rolled_out?, Instant::now());
        let mut scored: Vec<(Group, Vec<Scores>, Range<Instant>)> = scored.iter().collect();
        let open = all_ended.elapsed();
        let hidden =
            scored.iter().map(|(_, _, time)| time.end.min(all_ended).saturating_duration_since(time.start)).sum();
        scored.sort_by_key(|(group, ..)| group.task);
        let (groups, scores) = scored.into_iter().map(|(group, scores, _)| (group, scores)).unzip();
        let scoring_time = ScoringTime { hidden, open };
        Ok(Rollouts { groups, scores, tool_wait, judge: rewards.take_judge_counts(), scoring_time })
    })
}

fn next(to_score: &Mutex<Receiver<Trajectory>>) -> Option<Trajectory> {
    to_score.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Puts a trajectory to its group; the group in order, where that is whole.
fn joined(
    open: &Mutex<BTreeMap<usize, Ended>>,
    trajectory: Trajectory,
    early: Parts,
    group_size: usize,
) -> Option<Ended> {
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let task = trajectory.task;
    let ended = open.entry(task).or_default();
    ended.push((trajectory, early));
    if ended.len() < group_size {
        return None;
    }
    let mut whole = open.remove(&task)?;
    whole.sort_by_key(|(trajectory, _)| trajectory.sample);
    Some(whole)
}
