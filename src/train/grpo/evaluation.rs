//! Evaluations on held-out tasks during a run.

use std::time::Instant;

use super::Trainer;
use crate::checkpoint::CheckpointError;
use crate::eval::figures::figure;
use crate::eval::sources::SourceReport;
use crate::eval::{Evaluation, Report, evaluate, faults, sample};
use crate::rollout::Group;
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::retry::Retried;
use crate::rollout::reward_set::Scores;
use crate::train::TrainError;
use crate::train::judge_watch::judge_metrics;
use crate::train::run::SAMPLES_FOLDER;

/// Takes one number from a report.
type Reading = fn(&Report) -> f64;

/// What an evaluation logs, and the end of a run compares.
const HELD_OUT: [(&str, Reading); 8] = [
    ("held_out/accuracy", |report| report.accuracy),
    ("held_out/accuracy_of_all", |report| report.accuracy_of_all),
    ("held_out/answers_scored", |report| report.answers_scored as f64),
    ("held_out/answers_unscored", |report| report.answers_unscored as f64),
    ("held_out/reward", |report| report.reward),
    ("held_out/tool_use", |report| report.tool_use),
    ("held_out/tool_success", |report| report.tool_success),
    ("held_out/completion_tokens", |report| report.tokens.mean),
];
/// Values of [`HELD_OUT`].
type HeldOut = [f64; HELD_OUT.len()];

/// Trajectories of an evaluation that are written as pages.
const SAMPLES: usize = 4;

impl Trainer<'_> {
    /// Whether the recipe asks for an evaluation between the first and the last step.
    pub(super) fn is_evaluation_due(&self, step: u64) -> bool {
        let every = self.recipe.evaluation.steps;
        every > 0 && (1..self.run.steps).contains(&step) && step.is_multiple_of(every)
    }

    /// What an evaluation at `step` gave, before this process perhaps.
    pub(super) fn evaluated_at(&self, step: u64) -> Option<HeldOut> {
        self.run.logged(step, HELD_OUT.map(|(name, _)| name))
    }

    /// Evaluates on the held-out tasks, unless that is done, and says so; `None` where there are none.
    pub(super) fn evaluate_at(&mut self, step: u64) -> Result<Option<HeldOut>, TrainError> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        if let Some(done) = self.evaluated_at(step) {
            return Ok(Some(done));
        }
        let began = Instant::now();
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: self.policy.learner.weights() };
        let retries = &self.recipe.evaluation.retry;
        let Evaluation { report, groups, scores, retried, judge } =
            evaluate(&mut generator, &self.processor, &*self.environment, &self.held_out, &self.rewards, retries)?;
        if retried != Retried::default() {
            let Retried { rollouts, asked_directly } = retried;
            self.run
                .say(&format!("without an answer: {rollouts} rollouts made again, {asked_directly} asked directly"));
        }
        if let Some(counts) = judge.as_ref().filter(|counts| counts.has_failed()) {
            let reason = counts.last_failure.as_deref().unwrap_or_default();
            let asked = counts.asked;
            self.run.say(&format!(
                "the judge answered none of {asked} questions of the evaluation at step {step}: {reason}"
            ));
        }
        self.engine.forget_images();
        if let Some(data) = &self.held_out_data {
            for (task, reason) in faults(&groups) {
                self.run.say(&format!("left out of the held-out tasks: {}: {reason}", data.name_of(task as u64)));
            }
        }
        self.write_samples(&format!("held-out-{step}"), &groups, &scores)?;
        self.run.say(&format!(
            "held out at step {step}: accuracy {}, reward {}, tool use {:.2}",
            report.accuracy_line(),
            figure(report.reward),
            report.tool_use
        ));
        let time = began.elapsed();
        self.monitor.evaluation_time += time;
        let of_all = HELD_OUT.iter().map(|(name, value)| ((*name).to_owned(), value(&report)));
        let of_sources = report.sources.iter().flat_map(|SourceReport { source, accuracy, reward, .. }| {
            [(format!("held_out/accuracy/{source}"), *accuracy), (format!("held_out/reward/{source}"), *reward)]
        });
        let of_judge = judge.iter().flat_map(judge_metrics);
        let of_judge = of_judge.map(|metric| (format!("held_out/{}", metric.name()), metric.value()));
        let seconds = [("held_out/seconds".to_owned(), time.as_secs_f64())];
        let values: Vec<(String, f64)> = of_all.chain(of_sources).chain(of_judge).chain(seconds).collect();
        self.run.log(step, &values.iter().map(|(name, value)| (&**name, *value)).collect::<Vec<_>>())?;
        Ok(Some(HELD_OUT.map(|(_, value)| value(&report))))
    }

    /// Writes the first of the held-out trajectories as pages.
    fn write_samples(&self, name: &str, groups: &[Group], scores: &[Vec<Scores>]) -> Result<(), TrainError> {
        let dir = self.run.dir().join(SAMPLES_FOLDER);
        for (group, scores) in groups.iter().zip(scores).take(SAMPLES) {
            let (task, trajectory) = (&self.held_out[group.task], &group.trajectories[0]);
            sample::write(&dir, &format!("{name}-{}", group.task), task, trajectory, &scores[0])
                .map_err(CheckpointError::file("write", &dir))?;
        }
        Ok(())
    }

    /// Says how far the run has come between two evaluations.
    pub(super) fn compare(&self, before: &HeldOut, after: &HeldOut) {
        self.run.say(&format!("{:<20}{:>10}{:>10}", "held out", "before", "after"));
        for ((name, _), (before, after)) in HELD_OUT.iter().zip(before.iter().zip(after)) {
            let name = name.trim_start_matches("held_out/").replace('_', " ");
            let is_count = name.starts_with("answers");
            let shown = |value: f64| if is_count { format!("{value:.0}") } else { figure(value) };
            self.run.say(&format!("{name:<20}{:>10}{:>10}", shown(*before), shown(*after)));
        }
    }
}
