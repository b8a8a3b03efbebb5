//! Held-out evaluation: tasks are answered greedily and scored; what comes out is a few shares that one can compare.
//!
//! Tasks may be answered several times at a temperature too; `selection.rs` then says which of the answers are worth learning from.
//! `report.rs` sums up trajectories, those of training too, `tool_report.rs` the calls in them, `group_report.rs` the groups of a step, `sources.rs`
//! the tasks of each source; `predictions.rs` scores answers that are in a file, without a model.

pub mod figures;
pub mod group_report;
pub mod predictions;
pub mod report;
pub mod sample;
pub mod selection;
pub mod sources;
pub mod tool_report;

use serde_json::{Map, Value};

use crate::prompt::Processor;
use crate::rollout::environment::Environment;
use crate::rollout::generator::{Generator, Sampling};
use crate::rollout::retry::{Retried, RetrySettings, retry};
use crate::rollout::reward::Score;
use crate::rollout::reward_set::{RewardSet, Scores};
use crate::rollout::task::Task;
use crate::rollout::{Group, RolloutError, RolloutSettings, run};

pub use report::Report;
use sources::Sources;

/// What an evaluation gives.
pub struct Evaluation {
    /// Its shares.
    pub report: Report,
    /// The trajectories of each task.
    pub groups: Vec<Group>,
    /// The scores of each, group by group.
    pub scores: Vec<Vec<Scores>>,
    /// What tasks without an answer took.
    pub retried: Retried,
}

/// Answers each task greedily, those without an answer again as `retries` says, and scores the answers.
///
/// # Errors
/// As [`run`].
pub fn evaluate(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    rewards: &RewardSet,
    retries: &RetrySettings,
) -> Result<Evaluation, RolloutError> {
    evaluate_sampled(generator, processor, environment, tasks, rewards, &greedy(), retries)
}

/// One answer to each task, greedily.
pub fn greedy() -> RolloutSettings {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    RolloutSettings { sampling, ..RolloutSettings::default() }
}

/// Evaluates as [`evaluate`] does, with answers that are sampled as `settings` say.
///
/// # Errors
/// As [`run`].
pub fn evaluate_sampled(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    rewards: &RewardSet,
    settings: &RolloutSettings,
    retries: &RetrySettings,
) -> Result<Evaluation, RolloutError> {
    let mut groups = run(generator, processor, environment, tasks, settings)?;
    let retried = retry(generator, processor, environment, tasks, &mut groups, retries)?;
    let scores = rewards.score_groups(&groups, tasks);
    let scored = groups.iter().flat_map(|g| &g.trajectories).zip(scores.iter().flatten());
    let sources = Sources::of(tasks.iter());
    let report = Report { sources: sources.reports(tasks, &groups, &scores), ..Report::new(scored) };
    Ok(Evaluation { report, groups, scores, retried })
}

/// The tasks that could not be rolled out, and why.
pub fn faults(groups: &[Group]) -> impl Iterator<Item = (usize, String)> {
    let fault = |group: &Group| group.trajectories.iter().find_map(|trajectory| trajectory.end.fault());
    groups.iter().filter_map(move |group| Some((group.task, fault(group)?)))
}

/// The columns `scores` and `unscored` of written lines: the score of each reward, null where there is none, and why it is missing.
fn columns_of(parts: &[(&'static str, Score)]) -> [Value; 2] {
    let values: Map<String, Value> =
        parts.iter().map(|(name, score)| ((*name).to_owned(), score.value().into())).collect();
    let reasons = parts.iter().filter_map(|(name, score)| match score {
        Score::Unscored(reason) => Some(((*name).to_owned(), Value::from(&**reason))),
        Score::Value(_) => None,
    });
    [Value::Object(values), Value::Object(reasons.collect())]
}
