//! What is watched while a run goes on: where its time goes, which sources its tasks have, what looks wrong.

use std::time::{Duration, Instant};

use super::warnings::{WATCHED, Warnings};
use crate::eval::Report;
use crate::eval::sources::Sources;
use crate::recipe::Recipe;
use crate::rollout::scored::Rollouts;
use crate::rollout::task::Task;
use crate::rollout::trajectory::Trajectory;
use crate::telemetry::window::{Averages, Metric};
use crate::train::Session;
use crate::train::dataset::Dataset;
use crate::train::grad_norms::GradNorms;
use crate::train::policy::Learned;
use crate::train::run::Run;
use crate::train::session::peak_flops;
use crate::train::step_time::{StepClock, StepTime};

/// Most tasks of a data set that are searched for sources.
const TASKS_SEARCHED: usize = 1 << 17;

/// Lives through the run.
pub(super) struct Monitor {
    pub(super) grad_norms: GradNorms,
    /// Since the last step was reported.
    pub(super) evaluation_time: Duration,
    sources: Sources,
    warnings: Warnings,
    clock: StepClock,
}

impl Monitor {
    /// For a run, whose lines of metrics so far are taken in.
    pub(super) fn new(recipe: &Recipe, session: &Session, dataset: &Dataset, run: &Run) -> Monitor {
        let mut warnings = Warnings::new(recipe.training.warn_kl);
        for (_, line) in run.history(WATCHED) {
            warnings.look(line);
        }
        let searched = dataset.len().map_or(0, |len| len.min(TASKS_SEARCHED)) as u64;
        Monitor {
            grad_norms: GradNorms::new(recipe.training.log_grad_norms),
            evaluation_time: Duration::ZERO,
            sources: Sources::of((0..searched).filter_map(|number| dataset.task(number).ok())),
            warnings,
            clock: StepClock::new(peak_flops(session)),
        }
    }

    /// The report of a step's rollouts.
    pub(super) fn report(&self, tasks: &[Task], rollouts: &Rollouts) -> Report {
        let Rollouts { groups, scores, .. } = rollouts;
        let trajectories = groups.iter().flat_map(|group| &group.trajectories);
        let report = Report::new(trajectories.zip(scores.iter().flatten()));
        Report { sources: self.sources.reports(tasks, groups, scores), ..report }
    }

    /// Where the time went since the last call, and how much was computed in it. `rolled_out` is when the update began, `flops` what the
    /// learner has computed since the run began, `checkpoint` the time that checkpoints took.
    pub(super) fn time_metrics(
        &mut self,
        rollouts: &Rollouts,
        learned: &Learned,
        [began, rolled_out]: [Instant; 2],
        flops: f64,
        checkpoint: Duration,
    ) -> Vec<Metric> {
        let (now, (whole, computed)) = (Instant::now(), self.clock.end_step(flops));
        let time = StepTime {
            whole,
            rollout: (rolled_out - began).saturating_sub(rollouts.scoring_time.open),
            scoring: rollouts.scoring_time.open,
            reference: learned.reference,
            update: (now - rolled_out).saturating_sub(learned.reference),
            evaluation: std::mem::take(&mut self.evaluation_time),
            checkpoint,
        };
        let trajectories = rollouts.groups.iter().flat_map(|group| &group.trajectories);
        let sampled: usize = trajectories.clone().map(Trajectory::own_tokens).sum();
        let all: usize = trajectories.map(|trajectory| trajectory.token_ids.len()).sum();
        let per_second = |count: f64, time: Duration| count / time.as_secs_f64();
        let mut metrics = time.metrics();
        metrics.extend([
            Metric::mean("rollout_tokens_per_second", per_second(sampled as f64, time.rollout)),
            Metric::mean("tokens_per_second", per_second(all as f64, time.whole)),
            Metric::mean("tool_wait_hidden_seconds", rollouts.tool_wait.hidden.as_secs_f64()),
            Metric::mean("tool_wait_open_seconds", rollouts.tool_wait.open.as_secs_f64()),
            Metric::mean("scoring_hidden_seconds", rollouts.scoring_time.hidden.as_secs_f64()),
        ]);
        metrics.extend(self.clock.mfu(computed, time.update));
        metrics
    }

    /// The warnings that a line of metrics gives.
    pub(super) fn warnings(&mut self, averages: &Averages) -> Vec<String> {
        self.warnings.look(WATCHED.map(|name| averages.get(name)))
    }
}
