//! Held-out evaluation: tasks are answered greedily and scored; what comes out is a few shares that one can compare.

pub mod predictions;
pub mod sample;

use serde_json::{Map, Value};

use crate::prompt::Processor;
use crate::rollout::environment::{Environment, Task};
use crate::rollout::generator::{Generator, Sampling};
use crate::rollout::reward::{RewardSet, Score, Scores};
use crate::rollout::tool::CallStatus;
use crate::rollout::transcript::Transcript;
use crate::rollout::{Group, RolloutError, RolloutSettings, run};

/// What the transcripts of some tasks amount to.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Transcripts.
    pub count: usize,
    /// Mean total reward of the scored.
    pub reward: f64,
    /// Mean of each reward's unweighted score, by name.
    pub parts: Vec<(&'static str, f64)>,
    /// Transcripts without a score.
    pub unscored: usize,
    /// Share of transcripts that called a tool.
    pub tool_use: f64,
    /// Share of calls that ran without an error; 1 when there was none.
    pub tool_success: f64,
    /// Mean tokens after the prompt.
    pub tokens: f64,
    /// How often each end came, by name.
    pub ends: Vec<(&'static str, usize)>,
}

impl Report {
    /// Adds up transcripts and their scores.
    pub fn new<'a>(scored: impl Iterator<Item = (&'a Transcript, &'a Scores)> + Clone) -> Report {
        let mut report = Report { count: scored.clone().count(), ..Report::default() };
        let share = |sum: f64, of: usize| if of == 0 { 0.0 } else { sum / of as f64 };
        let totals: Vec<f64> = scored.clone().filter_map(|(_, scores)| scores.total.value()).collect();
        report.unscored = report.count - totals.len();
        report.reward = share(totals.iter().sum(), totals.len());
        let names = scored.clone().next().map(|(_, scores)| scores.parts.iter().map(|part| part.0).collect::<Vec<_>>());
        for name in names.unwrap_or_default() {
            let values: Vec<f64> =
                scored.clone().filter_map(|(_, scores)| scores.part(name).and_then(|score| score.value())).collect();
            report.parts.push((name, share(values.iter().sum(), values.len())));
        }
        let (mut calls, mut worked) = (0, 0);
        for (transcript, _) in scored.clone() {
            let ran = transcript.calls.iter().filter(|call| call.output.status != CallStatus::OverLimit);
            let statuses: Vec<bool> = ran.map(|call| call.output.status.is_ok()).collect();
            calls += statuses.len();
            worked += statuses.iter().filter(|&&ok| ok).count();
            report.tool_use += f64::from(u8::from(!statuses.is_empty()));
            report.tokens += transcript.completion_tokens() as f64;
            let name = transcript.end.name();
            match report.ends.iter_mut().find(|(end, _)| *end == name) {
                Some((_, count)) => *count += 1,
                None => report.ends.push((name, 1)),
            }
        }
        report.tool_use = share(report.tool_use, report.count);
        report.tool_success = if calls == 0 { 1.0 } else { worked as f64 / calls as f64 };
        report.tokens = share(report.tokens, report.count);
        report.ends.sort_unstable();
        report
    }

    /// The mean of a reward's unweighted score; 0 for an unknown name.
    pub fn part(&self, name: &str) -> f64 {
        self.parts.iter().find(|(part, _)| *part == name).map_or(0.0, |(_, value)| *value)
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.part("answer")
    }
}

/// Answers each task once and greedily.
///
/// # Errors
/// As [`run`].
pub fn evaluate(
    generator: &mut dyn Generator,
    processor: &Processor,
    environment: &dyn Environment,
    tasks: &[Task],
    rewards: &RewardSet,
) -> Result<(Report, Vec<Group>), RolloutError> {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let settings = RolloutSettings { sampling, ..RolloutSettings::default() };
    let groups = run(generator, processor, environment, tasks, &settings)?;
    let scores = score_groups(&groups, tasks, rewards);
    let scored = groups.iter().flat_map(|g| &g.transcripts).zip(scores.iter().flatten());
    Ok((Report::new(scored), groups))
}

/// The scores of every transcript, group by group.
pub fn score_groups(groups: &[Group], tasks: &[Task], rewards: &RewardSet) -> Vec<Vec<Scores>> {
    let score = |group: &Group| {
        let task = &tasks[group.task];
        group.transcripts.iter().map(|t| rewards.score(t, &task.question, &task.solution)).collect()
    };
    groups.iter().map(score).collect()
}

/// Scores by reward, null where there is none, and why those are missing: the columns `scores` and `unscored` of written lines.
fn columns_of(parts: &[(&'static str, Score)]) -> [Value; 2] {
    let values: Map<String, Value> =
        parts.iter().map(|(name, score)| ((*name).to_owned(), score.value().into())).collect();
    let reasons = parts.iter().filter_map(|(name, score)| match score {
        Score::Unscored(reason) => Some(((*name).to_owned(), Value::from(&**reason))),
        Score::Value(_) => None,
    });
    [Value::Object(values), Value::Object(reasons.collect())]
}
