//! Held-out evaluation: tasks are answered greedily and scored; what comes out is a few shares that one can compare.
//!
//! Tasks may be answered several times at a temperature too; `selection.rs` then says which of the answers are worth learning from.
//! `report.rs` sums up trajectories, those of training too, `tool_report.rs` the calls in them, `group_report.rs` the groups of a step, `sources.rs`
//! the tasks of each source, `judge_report.rs` what a judge was asked; `predictions.rs` scores answers that are in a file, without a model.

pub mod figures;
pub mod group_report;
pub mod judge_report;
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
use crate::rollout::judge::JudgeCounts;
use crate::rollout::retry::{Retried, RetrySettings, retry};
use crate::rollout::reward::Score;
use crate::rollout::reward_set::{RewardSet, Scores};
use crate::rollout::scored::{Rollouts, run_scored};
use crate::rollout::task::Task;
use crate::rollout::{Group, RolloutError, RolloutSettings, run};

use judge_report::JudgeReport;
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
    /// What the judge was asked; `None` where there is none.
    pub judge: Option<JudgeCounts>,
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

/// Evaluates as [`evaluate`] does, with answers that are sampled as `settings` say. Answers are scored while others are made, unless some may be made again.
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
    let (rollouts, retried) = match *retries == RetrySettings::default() {
        true => (run_scored(generator, processor, environment, tasks, settings, rewards)?, Retried::default()),
        false => {
            let mut groups = run(generator, processor, environment, tasks, settings)?;
            let retried = retry(generator, processor, environment, tasks, &mut groups, retries)?;
            // What others asked is not of these rollouts.
            rewards.take_judge_counts();
            let scores = rewards.score_groups(&groups, tasks);
            (Rollouts { groups, scores, judge: rewards.take_judge_counts(), ..Rollouts::default() }, retried)
        }
    };
    let Rollouts { groups, scores, judge, .. } = rollouts;
    let scored = groups.iter().flat_map(|g| &g.trajectories).zip(scores.iter().flatten());
    let sources = Sources::of(tasks.iter());
    let (sources, asked) = (sources.reports(tasks, &groups, &scores), judge.as_ref().map(JudgeReport::new));
    let report = Report { sources, judge: asked, ..Report::new(scored) };
    Ok(Evaluation { report, groups, scores, retried, judge })
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
