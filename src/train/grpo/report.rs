//! What is said, logged and written of a step.

use std::time::Instant;

use super::{Rollouts, Trainer};
use crate::checkpoint::CheckpointError;
use crate::eval::Report;
use crate::eval::figures::{figure, mean};
use crate::eval::group_report::GroupReport;
use crate::eval::sample;
use crate::rollout::task::Task;
use crate::rollout::trajectory::Trajectory;
use crate::telemetry::window::{Aggregation, Metric};
use crate::train::TrainError;
use crate::train::batch::Batch;
use crate::train::curriculum::Curriculum;
use crate::train::judge_watch::judge_metrics;
use crate::train::metrics::{line_of, report_metrics, update_metrics};
use crate::train::policy::Learned;
use crate::train::run::SAMPLES_FOLDER;
use crate::train::session::device_metrics;

/// Steps in a row with nothing to learn after which the user is warned.
const IDLE_STEPS: u64 = 3;

impl Trainer<'_> {
    pub(super) fn report(
        &mut self,
        step: u64,
        tasks: &[Task],
        rollouts: &Rollouts,
        batch: &Batch,
        learned: &Learned,
        times: [Instant; 2],
    ) -> Result<(), TrainError> {
        let report = self.monitor.report(tasks, rollouts);
        self.run.advance(&format!("reward {}", figure(report.reward)));
        self.warn_if_idle(step, batch, &report);
        let mut metrics = report_metrics(&report, &GroupReport::new(&rollouts.scores), batch);
        let has_signal = batch.has_signal(&self.recipe.grpo);
        metrics.extend(update_metrics(learned, has_signal));
        metrics.push(Metric::mean("kl", batch.kl_in_reward));
        metrics.extend(self.monitor.grad_norms.take().into_iter().filter(|_| has_signal));
        let last_update = self.updates_of(step - 1).end - 1;
        metrics.push(Metric::new("learning_rate", self.learning_rate_at(last_update), Aggregation::Last));
        metrics.push(Metric::new("skipped_updates", self.skipped.total as f64, Aggregation::Last));
        metrics.push(Metric::new("left_out", self.left_out.total() as f64, Aggregation::Last));
        metrics.extend(rollouts.judge.iter().flat_map(judge_metrics));
        metrics.extend(self.curriculum.iter_mut().flat_map(Curriculum::metrics));
        metrics.extend(self.engine_metrics(rollouts));
        let (flops, saving_time) = (self.policy.learner.flops(), self.run.take_saving_time());
        metrics.extend(self.monitor.time_metrics(rollouts, learned, times, flops, saving_time));
        let Some(averages) = self.run.close_step(step, metrics) else { return Ok(()) };
        self.run.say(&format!("step {step}/{}  {}", self.run.steps, line_of(&averages)));
        let values: Vec<(&str, f64)> = averages.iter().chain(device_metrics(self.session)).collect();
        self.run.log(step, &values)?;
        self.monitor.warnings(&averages).iter().for_each(|warning| self.run.say(warning));
        Ok(())
    }

    /// Says when several steps in a row had nothing to learn, and what became of the rollouts of the last.
    fn warn_if_idle(&mut self, step: u64, batch: &Batch, report: &Report) {
        self.idle_steps = if batch.has_signal(&self.recipe.grpo) { 0 } else { self.idle_steps + 1 };
        if self.idle_steps == IDLE_STEPS {
            self.run.say(&format!(
                "warning: nothing could be learned in the last {IDLE_STEPS} steps: at step {step}, {} of {} groups had no two different \
                 rewards (mean reward {}); of {} rollouts {} were unscored and {} masked as truncated. Look at what the model writes \
                 (`training.log_completions = 4`), at the tasks and at the rewards",
                batch.groups_without_signal,
                batch.groups,
                figure(report.reward),
                report.count,
                report.unscored,
                batch.masked,
            ));
        }
    }

    /// How a step's tokens were sampled, and what the engine did for it.
    fn engine_metrics(&self, rollouts: &Rollouts) -> Vec<Metric> {
        let trajectories = rollouts.groups.iter().flat_map(|group| &group.trajectories);
        let kept_mass: Vec<f64> =
            trajectories.flat_map(Trajectory::own).map(|(_, token)| f64::from(token.kept_mass)).collect();
        let engine = self.engine.statistics().since(&self.engine_before);
        vec![
            Metric::mean("kept_mass", mean(&kept_mass)),
            Metric::mean("engine/preemptions", engine.preemptions as f64),
            Metric::mean("engine/prefix_hit_rate", engine.cached_tokens as f64 / engine.queried_tokens.max(1) as f64),
            Metric::mean("engine/encoded_images", engine.encoded_images as f64),
            Metric::mean("engine/overlapped_steps", engine.overlapped_steps as f64),
            Metric::mean("engine/drafted_tokens", engine.drafted_tokens as f64),
            Metric::mean("engine/accepted_tokens", engine.accepted_tokens as f64),
        ]
    }

    /// Writes some of a step's rollouts as pages: the first of each group, then the second of each.
    pub(super) fn write_completions(&self, step: u64, tasks: &[Task], rollouts: &Rollouts) -> Result<(), TrainError> {
        let dir = self.run.dir().join(SAMPLES_FOLDER);
        let in_turn = (0..self.recipe.grpo.num_generations).flat_map(|member| {
            rollouts.groups.iter().zip(&rollouts.scores).map(move |(group, scores)| (group, scores, member))
        });
        let ran = in_turn.filter(|(group, _, member)| !group.trajectories[*member].end.is_fault());
        for (group, scores, member) in ran.take(self.recipe.training.log_completions) {
            let name = format!("step-{step}-{}-{member}", group.task);
            sample::write(&dir, &name, &tasks[group.task], &group.trajectories[member], &scores[member])
                .map_err(CheckpointError::file("write", &dir))?;
        }
        Ok(())
    }
}
