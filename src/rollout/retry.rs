//! What becomes of a task that ended without an answer, as in Thyme's evaluation (`eval/VLMEvalKit/vlmeval/vlm/thyme/model.py`): it is rolled out again at
//! temperature 1, some times, and at last asked for the answer alone, without tools.

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::environments::direct::Direct;
use super::generator::{Generator, Sampling};
use super::task::{Task, TaskPrompt};
use super::{Group, RolloutError, RolloutSettings, run};
use crate::prompt::Processor;

/// How often an unanswered task is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Rollouts at temperature 1 of a task that has no answer, at most; the original has 5.
    pub retries: usize,
    /// Ask for the answer alone, without tools, where none has come.
    pub direct_fallback: bool,
}

/// What tasks without an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Rollouts made again.
    pub rollouts: usize,
    /// Tasks that were asked for the answer alone.
    pub asked_directly: usize,
}

/// Behind the question of a task that is asked for the answer alone.
const DIRECT: &str = "\nGive the answer alone, between <answer> and </answer>.";

/// Tries the tasks again that ended without an answer and could be rolled out, and puts what answers them in the place of what did not.
///
/// # Errors
/// As [`run`].
pub fn retry(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    groups: &mut [Group],
    settings: &RetrySettings,
) -> Result<Retried, RolloutError> {
    let mut retried = Retried::default();
    for attempt in 0..settings.retries {
        let unanswered = unanswered(groups);
        let again: Vec<Task> = unanswered.iter().map(|&task| tasks[task].clone()).collect();
        retried.rollouts += again.len();
        // Task numbers count the random numbers, so no two attempts sample the same.
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let settings = RolloutSettings { sampling, seed: attempt as u64, ..RolloutSettings::default() };
        replace(groups, &unanswered, run(generator, processor, environment, &again, &settings)?);
    }
    if settings.direct_fallback {
        let unanswered = unanswered(groups);
        let limits = environment.limits();
        let direct = Direct { max_turn_tokens: limits.turn, max_total_tokens: limits.total };
        let asked = |&task: &usize| {
            let question = format!("{}{DIRECT}", tasks[task].question);
            Task { prompt: TaskPrompt::Question, question, ..tasks[task].clone() }
        };
        let again: Vec<Task> = unanswered.iter().map(asked).collect();
        retried.asked_directly = again.len();
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let settings = RolloutSettings { sampling, ..RolloutSettings::default() };
        replace(groups, &unanswered, run(generator, processor, &direct, &again, &settings)?);
    }
    Ok(retried)
}

/// The tasks that ended without an answer, though they could be rolled out.
fn unanswered(groups: &[Group]) -> Vec<usize> {
    let is_open = |group: &&Group| {
        group.trajectories.iter().all(|trajectory| trajectory.answer.is_none() && !trajectory.end.is_fault())
    };
    groups.iter().filter(is_open).map(|group| group.task).collect()
}

/// Puts the rollouts that have an answer in the place of those of the same tasks.
fn replace(groups: &mut [Group], tasks: &[usize], again: Vec<Group>) {
    for (&task, mut group) in tasks.iter().zip(again) {
        if group.trajectories.iter().any(|trajectory| trajectory.answer.is_some()) {
            group.task = task;
            group.trajectories.iter_mut().for_each(|trajectory| trajectory.task = task);
            groups[task] = group;
        }
    }
}
