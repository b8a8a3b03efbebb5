//! GRPO with adaptive temperature: roll out, reward, learn, in place, on one copy of the weights.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug_span;

use super::batch::Batch;
use super::dataset::{Dataset, DatasetError};
use super::left_out::LeftOut;
use super::memory_report::MemoryReport;
use super::metrics::{line_of, report_metrics, update_metrics};
use super::policy::{Learned, Policy, PolicySettings};
use super::run::{Run, SAMPLES_FOLDER, TrainerState};
use super::sample::Layout;
use super::{Session, SkippedUpdates, TrainError, device_metrics, open_learner, starting_weights};
use crate::checkpoint::CheckpointError;
use crate::engine::{Engine, Statistics};
use crate::eval::report::{Report, figure};
use crate::eval::{evaluate, faults, sample, score_groups};
use crate::prompt::Processor;
use crate::recipe::memory::engine_limits;
use crate::recipe::plan::Plan;
use crate::recipe::{Method, Recipe};
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::{Environment, Task};
use crate::rollout::registry::{self, RegistryError};
use crate::rollout::reward::{RewardSet, Scores};
use crate::rollout::trajectory::{End, Trajectory};
use crate::rollout::{Group, RolloutSettings, ToolWait, run_timed};
use crate::telemetry::window::{Aggregation, Metric};

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
    ("held_out/completion_tokens", |report| report.tokens),
];
/// Values of [`HELD_OUT`].
type HeldOut = [f64; HELD_OUT.len()];

/// Trajectories of an evaluation that are written as pages.
const SAMPLES: usize = 4;
/// Steps in a row with nothing to learn after which the user is warned.
const IDLE_STEPS: u64 = 3;

/// Trains to the plan's last step, or until the user stops it.
pub fn train(plan: &Plan, session: &Session) -> Result<(), TrainError> {
    let mut trainer = Trainer::open(plan, session)?;
    let (start, steps) = (trainer.run.start, trainer.run.steps);
    let before = if start == 0 { trainer.evaluate_at(0)? } else { trainer.evaluated_at(0) };
    if trainer.is_evaluation_due(start) {
        trainer.evaluate_at(start)?;
    }
    for step in start..steps {
        let began = Instant::now();
        let tasks = trainer.tasks(step)?;
        let rollouts = trainer.roll_out(step, &tasks)?;
        let rolled_out = Instant::now();
        let batch = trainer.batch(&rollouts);
        let learned = trainer.learn(&batch, step)?;
        trainer.report(step + 1, &rollouts, &batch, &learned, [began, rolled_out])?;
        trainer.write_completions(step + 1, &tasks, &rollouts)?;
        trainer.run.save_if_due(step + 1, &trainer.policy.learner, trainer.skipped, trainer.left_out)?;
        if trainer.run.is_stopping() {
            return Ok(());
        }
        if trainer.is_evaluation_due(step + 1) {
            trainer.evaluate_at(step + 1)?;
        }
    }
    let after = trainer.evaluate_at(steps)?;
    if let (Some(before), Some(after)) = (before, after) {
        trainer.compare(&before, &after);
    }
    Ok(())
}

/// Everything that lives through the run.
struct Trainer<'a> {
    recipe: &'a Recipe,
    session: &'a Session,
    run: Run,
    processor: Arc<Processor>,
    policy: Policy,
    engine: Engine,
    environment: Arc<dyn Environment>,
    rewards: RewardSet,
    dataset: Dataset,
    held_out: Vec<Task>,
    /// What the held-out tasks come from; none where there are none.
    held_out_data: Option<Dataset>,
    skipped: SkippedUpdates,
    left_out: LeftOut,
    /// Steps in a row with nothing to learn.
    idle_steps: u64,
    /// What the engine had done before the step.
    engine_before: Statistics,
    /// Until the first step has shown them.
    memory_report: Option<MemoryReport>,
}

/// One step's rollouts, group by group.
struct Rollouts {
    groups: Vec<Group>,
    scores: Vec<Vec<Scores>>,
    tool_wait: ToolWait,
}

impl<'a> Trainer<'a> {
    fn open(plan: &'a Plan, session: &'a Session) -> Result<Trainer<'a>, TrainError> {
        let recipe = &plan.recipe;
        let processor = Arc::new(plan.processor()?);
        let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
        let (held_out_data, held_out) = held_out_tasks(recipe)?;
        let rewards = RewardSet::new(&recipe.reward)?;
        let environment = environment(recipe)?;
        let (learner, state) = open_learner(plan, session, &processor)?;
        let model = learner.model();
        let reference = match recipe.grpo.beta > 0.0 {
            true => Some(starting_weights(plan, model)?),
            false => None,
        };
        let limits = engine_limits(plan, model.backend.activation_bytes());
        let engine = Engine::new(model.clone(), processor.clone(), limits).with_speculation(recipe.engine.speculation);
        let run = Run::open(plan, state.global_step, recipe.steps(dataset.len()), session.stop.clone())?;
        run.note_versions(environment.versions())?;
        let settings = PolicySettings {
            grpo: recipe.grpo.clone(),
            completion_tokens_max: environment.limits().total,
            micro_batch_tokens: recipe.training.micro_batch_tokens,
            layout: Layout::of(&processor),
        };
        Ok(Trainer {
            recipe,
            session,
            run,
            processor,
            policy: Policy { learner, reference, settings },
            engine,
            environment,
            rewards,
            dataset,
            held_out,
            held_out_data,
            skipped: state.skipped,
            left_out: state.left_out,
            idle_steps: 0,
            engine_before: Statistics::default(),
            memory_report: Some(MemoryReport::default()),
        })
    }

    fn tasks(&self, step: u64) -> Result<Vec<Task>, TrainError> {
        let count = self.recipe.grpo.prompts_per_step as u64;
        Ok((step * count..(step + 1) * count).map(|number| self.dataset.task(number)).collect::<Result<_, _>>()?)
    }

    fn roll_out(&mut self, step: u64, tasks: &[Task]) -> Result<Rollouts, TrainError> {
        let _span = debug_span!("roll out", step).entered();
        self.engine_before = self.engine.statistics();
        let settings = RolloutSettings {
            group_size: self.recipe.grpo.num_generations,
            first_task: step as usize * tasks.len(),
            seed: self.recipe.seed,
            sampling: self.recipe.sampling.clone(),
            ..RolloutSettings::default()
        };
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: self.policy.learner.weights() };
        let (groups, tool_wait) = run_timed(&mut generator, &self.processor, &*self.environment, tasks, &settings)?;
        if let Some(memory_report) = &mut self.memory_report {
            memory_report.note_rollout(
                &self.policy.learner,
                self.policy.reference.as_ref(),
                self.engine.page_tensors(),
            );
        }
        self.say_faults(step, &groups)?;
        let scores = score_groups(&groups, tasks, &self.rewards);
        Ok(Rollouts { groups, scores, tool_wait })
    }

    /// Names the tasks that could not be rolled out, and counts those that cannot be used; they have no score and teach nothing.
    fn say_faults(&mut self, step: u64, groups: &[Group]) -> Result<(), TrainError> {
        let mut unusable = Vec::new();
        for group in groups {
            let Some(end) = group.trajectories.iter().map(|trajectory| &trajectory.end).find(|end| end.is_fault())
            else {
                continue;
            };
            let name = self.dataset.name_of(step * groups.len() as u64 + group.task as u64);
            let reason = format!("{name}: {}", end.fault().unwrap_or_default());
            self.run.say(&format!("left out at step {}: {reason}", step + 1));
            if !matches!(end, End::ToolFailed(_)) {
                unusable.push(reason);
            } else if groups.iter().flat_map(|group| &group.trajectories).all(|trajectory| trajectory.end.is_fault()) {
                return Err(TrainError::NoTask { count: groups.len(), step: step + 1, reason });
            }
        }
        let updates = self.policy.learner.updates();
        let before = TrainerState { global_step: step, updates, skipped: self.skipped, left_out: self.left_out };
        let most = self.recipe.data.max_left_out;
        let counted = self.left_out.count(groups.len(), &unusable, self.dataset.len(), step + 1, most);
        if counted.is_err() {
            self.run.save_before_end(before, &self.policy.learner)?;
        }
        counted
    }

    fn batch(&mut self, rollouts: &Rollouts) -> Batch {
        let is_frozen = self.recipe.model.freeze_vision_tower;
        let batch = Batch::new(&rollouts.groups, &rollouts.scores, &self.recipe.grpo, &|image| {
            is_frozen.then(|| self.engine.unmerged_features(image)).flatten()
        });
        self.engine.forget_images();
        self.engine.release_pages();
        batch
    }

    /// Updates on the batch as often as the recipe says. Shows whose memory is where, once, when gradients are there.
    fn learn(&mut self, batch: &Batch, step: u64) -> Result<Learned, TrainError> {
        let learning_rates: Vec<f64> = self.updates_of(step).map(|update| self.learning_rate_at(update)).collect();
        let learned = self.policy.learn(batch, &learning_rates, |learner| {
            if let Some(mut memory_report) = self.memory_report.take() {
                memory_report.note_update(learner);
                self.run.say(&memory_report.table(self.session));
            }
        });
        for measured in &learned.updates {
            self.skipped.count(measured.update, step + 1, self.recipe.training.max_skipped_updates)?;
        }
        Ok(learned)
    }

    /// Numbers of a step's updates.
    fn updates_of(&self, step: u64) -> Range<u64> {
        let iterations = self.recipe.grpo.num_iterations as u64;
        step * iterations..(step + 1) * iterations
    }

    fn learning_rate_at(&self, update: u64) -> f64 {
        self.recipe.optimizer.learning_rate_at(update, self.run.steps * self.recipe.grpo.num_iterations as u64)
    }

    fn report(
        &mut self,
        step: u64,
        rollouts: &Rollouts,
        batch: &Batch,
        learned: &Learned,
        times: [Instant; 2],
    ) -> Result<(), TrainError> {
        let trajectories = rollouts.groups.iter().flat_map(|group| &group.trajectories);
        let report = Report::new(trajectories.zip(rollouts.scores.iter().flatten()));
        self.run.advance(&format!("reward {}", figure(report.reward)));
        self.warn_if_idle(step, batch, &report);
        let mut metrics = report_metrics(&report, batch);
        metrics.extend(update_metrics(learned, batch.has_signal(self.recipe.grpo.beta)));
        let last_update = self.updates_of(step - 1).end - 1;
        metrics.push(Metric::new("learning_rate", self.learning_rate_at(last_update), Aggregation::Last));
        metrics.push(Metric::new("skipped_updates", self.skipped.total as f64, Aggregation::Last));
        metrics.push(Metric::new("left_out", self.left_out.total() as f64, Aggregation::Last));
        metrics.extend(self.time_metrics(rollouts, times));
        let Some(averages) = self.run.close_step(step, metrics) else { return Ok(()) };
        self.run.say(&format!("step {step}/{}  {}", self.run.steps, line_of(&averages)));
        let values: Vec<(&str, f64)> = averages.iter().chain(device_metrics(self.session)).collect();
        self.run.log(step, &values)
    }

    /// Says when several steps in a row had nothing to learn, and what became of the rollouts of the last.
    fn warn_if_idle(&mut self, step: u64, batch: &Batch, report: &Report) {
        self.idle_steps = if batch.has_signal(self.recipe.grpo.beta) { 0 } else { self.idle_steps + 1 };
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

    fn time_metrics(&self, rollouts: &Rollouts, [began, rolled_out]: [Instant; 2]) -> Vec<Metric> {
        let trajectories = rollouts.groups.iter().flat_map(|group| &group.trajectories);
        let sampled: usize = trajectories.clone().map(Trajectory::own_tokens).sum();
        let kept_mass: f64 = trajectories.flat_map(Trajectory::own).map(|(_, token)| f64::from(token.kept_mass)).sum();
        let rollout_seconds = (rolled_out - began).as_secs_f64();
        let engine = self.engine.statistics().since(&self.engine_before);
        vec![
            Metric::mean("kept_mass", kept_mass / sampled as f64),
            Metric::mean("rollout_seconds", rollout_seconds),
            Metric::mean("update_seconds", rolled_out.elapsed().as_secs_f64()),
            Metric::mean("rollout_tokens_per_second", sampled as f64 / rollout_seconds),
            Metric::mean("engine/preemptions", engine.preemptions as f64),
            Metric::mean("engine/prefix_hit_rate", engine.cached_tokens as f64 / engine.queried_tokens.max(1) as f64),
            Metric::mean("engine/encoded_images", engine.encoded_images as f64),
            Metric::mean("engine/drafted_tokens", engine.drafted_tokens as f64),
            Metric::mean("engine/accepted_tokens", engine.accepted_tokens as f64),
            Metric::mean("tool_wait_hidden_seconds", rollouts.tool_wait.hidden.as_secs_f64()),
            Metric::mean("tool_wait_open_seconds", rollouts.tool_wait.open.as_secs_f64()),
        ]
    }

    /// Whether the recipe asks for an evaluation between the first and the last step.
    fn is_evaluation_due(&self, step: u64) -> bool {
        let every = self.recipe.evaluation.steps;
        every > 0 && (1..self.run.steps).contains(&step) && step.is_multiple_of(every)
    }

    /// What an evaluation at `step` gave, before this process perhaps.
    fn evaluated_at(&self, step: u64) -> Option<HeldOut> {
        self.run.logged(step, HELD_OUT.map(|(name, _)| name))
    }

    /// Evaluates on the held-out tasks, unless that is done, and says so; `None` where there are none.
    fn evaluate_at(&mut self, step: u64) -> Result<Option<HeldOut>, TrainError> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        if let Some(done) = self.evaluated_at(step) {
            return Ok(Some(done));
        }
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: self.policy.learner.weights() };
        let (report, groups) =
            evaluate(&mut generator, &self.processor, &*self.environment, &self.held_out, &self.rewards)?;
        self.engine.forget_images();
        if let Some(data) = &self.held_out_data {
            for (task, reason) in faults(&groups) {
                self.run.say(&format!("left out of the held-out tasks: {}: {reason}", data.name_of(task as u64)));
            }
        }
        self.write_samples(&format!("held-out-{step}"), &groups)?;
        self.run.say(&format!(
            "held out at step {step}: accuracy {}, reward {}, tool use {:.2}",
            report.accuracy_line(),
            figure(report.reward),
            report.tool_use
        ));
        self.run.log(step, &HELD_OUT.map(|(name, value)| (name, value(&report))))?;
        Ok(Some(HELD_OUT.map(|(_, value)| value(&report))))
    }

    /// Writes some of a step's rollouts as pages: the first of each group, then the second of each.
    fn write_completions(&self, step: u64, tasks: &[Task], rollouts: &Rollouts) -> Result<(), TrainError> {
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

    /// Writes the first of the held-out trajectories as pages.
    fn write_samples(&self, name: &str, groups: &[Group]) -> Result<(), TrainError> {
        let dir = self.run.dir().join(SAMPLES_FOLDER);
        for group in groups.iter().take(SAMPLES) {
            let (task, trajectory) = (&self.held_out[group.task], &group.trajectories[0]);
            let scores = self.rewards.score(trajectory, &task.question, &task.solution);
            sample::write(&dir, &format!("{name}-{}", group.task), task, trajectory, &scores)
                .map_err(CheckpointError::file("write", &dir))?;
        }
        Ok(())
    }

    fn compare(&self, before: &HeldOut, after: &HeldOut) {
        self.run.say(&format!("{:<20}{:>10}{:>10}", "held out", "before", "after"));
        for ((name, _), (before, after)) in HELD_OUT.iter().zip(before.iter().zip(after)) {
            let name = name.trim_start_matches("held_out/").replace('_', " ");
            let is_count = name.starts_with("answers");
            let shown = |value: f64| if is_count { format!("{value:.0}") } else { figure(value) };
            self.run.say(&format!("{name:<20}{:>10}{:>10}", shown(*before), shown(*after)));
        }
    }
}

/// The recipe's environment over its tool.
fn environment(recipe: &Recipe) -> Result<Arc<dyn Environment>, RegistryError> {
    let (name, table) = recipe.environment.named("think_with_code");
    registry::environment(&name, table, || {
        let (name, table) = recipe.tool.named("python");
        registry::tool(&name, table)
    })
}

/// The held-out tasks and what they come from.
fn held_out_tasks(recipe: &Recipe) -> Result<(Option<Dataset>, Vec<Task>), DatasetError> {
    let settings = &recipe.evaluation;
    let dataset = match settings.files.is_empty() {
        false => Dataset::from_files(&settings.files, Method::Grpo, None)?,
        true if recipe.data.needle.is_some() => Dataset::held_out_needle(),
        true => return Ok((None, Vec::new())),
    };
    let count = dataset.len().map_or(settings.tasks, |len| len.min(settings.tasks));
    let tasks = (0..count as u64).map(|number| dataset.task(number)).collect::<Result<_, _>>()?;
    Ok((Some(dataset), tasks))
}
