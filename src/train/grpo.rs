//! GRPO with adaptive temperature: roll out, reward, learn, in place, on one copy of the weights.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug_span;

use super::batch::Batch;
use super::dataset::{Dataset, DatasetError};
use super::left_out::LeftOut;
use super::owners::Owners;
use super::policy::{Learned, Measured, Policy, PolicySettings};
use super::run::{Run, TrainerState};
use super::sample::Layout;
use super::{Session, SkippedUpdates, TrainError, device_metrics, open_learner, starting_weights};
use crate::checkpoint::CheckpointError;
use crate::engine::{Engine, Statistics};
use crate::eval::report::{Report, figure, spread};
use crate::eval::{evaluate, sample, score_groups};
use crate::prompt::Processor;
use crate::recipe::memory::engine_limits;
use crate::recipe::plan::Plan;
use crate::recipe::{Method, Recipe};
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::{Environment, Task};
use crate::rollout::registry::{self, RegistryError};
use crate::rollout::reward::{RewardSet, Scores};
use crate::rollout::transcript::{End, Transcript};
use crate::rollout::{Group, RolloutSettings, ToolWait, run_timed};
use crate::telemetry::window::{Averages, Figure, Rule};

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

/// Transcripts of an evaluation that are written as pages.
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
    skipped: SkippedUpdates,
    left_out: LeftOut,
    /// Steps in a row with nothing to learn.
    idle_steps: u64,
    /// What the engine had done before the step.
    engine_before: Statistics,
    /// Until the first step has shown them.
    owners: Option<Owners>,
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
        let held_out = held_out_tasks(recipe)?;
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
            skipped: state.skipped,
            left_out: state.left_out,
            idle_steps: 0,
            engine_before: Statistics::default(),
            owners: Some(Owners::default()),
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
        if let Some(owners) = &mut self.owners {
            owners.note_rollout(&self.policy.learner, self.policy.reference.as_ref(), self.engine.page_tensors());
        }
        self.say_faults(step, &groups)?;
        let scores = score_groups(&groups, tasks, &self.rewards);
        Ok(Rollouts { groups, scores, tool_wait })
    }

    /// Names the tasks that could not be rolled out, and counts those that cannot be used; they have no score and teach nothing.
    fn say_faults(&mut self, step: u64, groups: &[Group]) -> Result<(), TrainError> {
        let mut unusable = Vec::new();
        for group in groups {
            let Some(end) = group.transcripts.iter().map(|transcript| &transcript.end).find(|end| end.is_fault())
            else {
                continue;
            };
            let name = self.dataset.name_of(step * groups.len() as u64 + group.task as u64);
            let reason = format!("{name}: {}", end.fault().unwrap_or_default());
            self.run.say(&format!("left out at step {}: {reason}", step + 1));
            if !matches!(end, End::ToolFailed(_)) {
                unusable.push(reason);
            } else if groups.iter().flat_map(|group| &group.transcripts).all(|transcript| transcript.end.is_fault()) {
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
            is_frozen.then(|| self.engine.units(image)).flatten()
        });
        self.engine.forget_images();
        self.engine.release_pages();
        batch
    }

    /// Updates on the batch as often as the recipe says. Shows whose memory is where, once, when gradients are there.
    fn learn(&mut self, batch: &Batch, step: u64) -> Result<Learned, TrainError> {
        let learning_rates: Vec<f64> = self.updates_of(step).map(|update| self.learning_rate_at(update)).collect();
        let learned = self.policy.learn(batch, &learning_rates, |learner| {
            if let Some(mut owners) = self.owners.take() {
                owners.note_update(learner);
                self.run.say(&owners.table(self.session));
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
        let transcripts = rollouts.groups.iter().flat_map(|group| &group.transcripts);
        let report = Report::new(transcripts.zip(rollouts.scores.iter().flatten()));
        self.run.advance(&format!("reward {}", figure(report.reward)));
        self.warn_if_idle(step, batch, &report);
        let mut figures = report_figures(&report, batch);
        figures.extend(update_figures(learned, batch.teaches(self.recipe.grpo.beta)));
        let last_update = self.updates_of(step - 1).end - 1;
        figures.push(Figure::new("learning_rate", self.learning_rate_at(last_update), Rule::Last));
        figures.push(Figure::new("skipped_updates", self.skipped.total as f64, Rule::Last));
        figures.push(Figure::new("left_out", self.left_out.total() as f64, Rule::Last));
        figures.extend(self.time_figures(rollouts, times));
        let Some(averages) = self.run.close_step(step, figures) else { return Ok(()) };
        self.run.say(&format!("step {step}/{}  {}", self.run.steps, line_of(&averages)));
        let values: Vec<(&str, f64)> = averages.iter().chain(device_metrics(self.session)).collect();
        self.run.log(step, &values)
    }

    /// Says when several steps in a row had nothing to learn, and what became of the rollouts of the last.
    fn warn_if_idle(&mut self, step: u64, batch: &Batch, report: &Report) {
        self.idle_steps = if batch.teaches(self.recipe.grpo.beta) { 0 } else { self.idle_steps + 1 };
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

    fn time_figures(&self, rollouts: &Rollouts, [began, rolled_out]: [Instant; 2]) -> Vec<Figure> {
        let transcripts = rollouts.groups.iter().flat_map(|group| &group.transcripts);
        let drawn: usize = transcripts.clone().map(Transcript::own_tokens).sum();
        let kept: f64 = transcripts.flat_map(Transcript::own).map(|(_, token)| f64::from(token.kept)).sum();
        let rollout_seconds = (rolled_out - began).as_secs_f64();
        let engine = self.engine.statistics().since(&self.engine_before);
        vec![
            Figure::mean("kept_mass", kept / drawn as f64),
            Figure::mean("rollout_seconds", rollout_seconds),
            Figure::mean("update_seconds", rolled_out.elapsed().as_secs_f64()),
            Figure::mean("rollout_tokens_per_second", drawn as f64 / rollout_seconds),
            Figure::mean("engine/preemptions", engine.preemptions as f64),
            Figure::mean("engine/prefix_hit_rate", engine.found_tokens as f64 / engine.begun_tokens.max(1) as f64),
            Figure::mean("engine/encoded_images", engine.encoded_images as f64),
            Figure::mean("engine/drafted_tokens", engine.drafted_tokens as f64),
            Figure::mean("engine/accepted_tokens", engine.accepted_tokens as f64),
            Figure::mean("tool_wait_hidden_seconds", rollouts.tool_wait.hidden.as_secs_f64()),
            Figure::mean("tool_wait_open_seconds", rollouts.tool_wait.open.as_secs_f64()),
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
        let dir = self.run.dir().join("samples");
        let in_turn = (0..self.recipe.grpo.num_generations).flat_map(|member| {
            rollouts.groups.iter().zip(&rollouts.scores).map(move |(group, scores)| (group, scores, member))
        });
        for (group, scores, member) in in_turn.take(self.recipe.training.log_completions) {
            let name = format!("step-{step}-{}-{member}", group.task);
            sample::write(&dir, &name, &tasks[group.task], &group.transcripts[member], &scores[member])
                .map_err(CheckpointError::file("write", &dir))?;
        }
        Ok(())
    }

    /// Writes the first of the held-out transcripts as pages.
    fn write_samples(&self, name: &str, groups: &[Group]) -> Result<(), TrainError> {
        let dir = self.run.dir().join("samples");
        for group in groups.iter().take(SAMPLES) {
            let (task, transcript) = (&self.held_out[group.task], &group.transcripts[0]);
            let scores = self.rewards.score(transcript, &task.question, &task.solution);
            sample::write(&dir, &format!("{name}-{}", group.task), task, transcript, &scores)
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

fn held_out_tasks(recipe: &Recipe) -> Result<Vec<Task>, DatasetError> {
    let settings = &recipe.evaluation;
    let dataset = match settings.files.is_empty() {
        false => Dataset::from_files(&settings.files, Method::Grpo, None)?,
        true if recipe.data.needle.is_some() => Dataset::held_out_needle(),
        true => return Ok(Vec::new()),
    };
    let count = dataset.len().map_or(settings.tasks, |len| len.min(settings.tasks));
    (0..count as u64).map(|number| dataset.task(number)).collect()
}

/// What the rollouts of a step amount to.
fn report_figures(report: &Report, batch: &Batch) -> Vec<Figure> {
    let [advantage_min, advantage, advantage_max] = spread(&batch.advantages);
    let mut figures = vec![
        Figure::mean("reward", report.reward),
        Figure::mean("reward_std", report.reward_std),
        Figure::mean("frac_reward_zero_std", batch.groups_without_signal as f64 / batch.groups as f64),
        Figure::new("advantage/min", advantage_min, Rule::Min),
        Figure::mean("advantage/mean", advantage),
        Figure::new("advantage/max", advantage_max, Rule::Max),
        Figure::mean("accuracy", report.accuracy),
        Figure::mean("accuracy_of_all", report.accuracy_of_all),
        Figure::count("answers_scored", report.answers_scored),
        Figure::count("answers_unscored", report.answers_unscored),
        Figure::count("scored", report.scored),
        Figure::count("unscored", report.unscored),
        Figure::count("groups_left_out", batch.groups_left_out),
        Figure::count("masked_completions", batch.masked),
        Figure::mean("tool_use", report.tool_use),
        Figure::mean("tool_success", report.tool_success),
        Figure::mean("completion_tokens", report.tokens),
        Figure::new("completion_tokens/min", report.tokens_min, Rule::Min),
        Figure::new("completion_tokens/max", report.tokens_max, Rule::Max),
        Figure::mean("num_turns", report.turns),
        Figure::new("num_turns/min", report.turns_min, Rule::Min),
        Figure::new("num_turns/max", report.turns_max, Rule::Max),
    ];
    figures.extend(report.parts.iter().map(|(name, value)| Figure::mean(format!("reward/{name}"), *value)));
    figures.extend(report.ends.iter().map(|(name, count)| Figure::count(format!("end/{name}"), *count)));
    figures
}

/// What the updates of a step measured: means over them. NaN where there was nothing to compute. Loss, clip shares and gradient norm are NaN
/// also where there was nothing to learn: a loss without a gradient says nothing of the policy.
fn update_figures(learned: &Learned, teaches: bool) -> Vec<Figure> {
    let of_loss = |value: fn(&Measured) -> f64| if teaches { learned.mean(value) } else { f64::NAN };
    let [low, high] = [of_loss(|update| update.clip_low), of_loss(|update| update.clip_high)];
    vec![
        Figure::mean("loss", of_loss(|update| update.loss)),
        Figure::mean("kl", learned.mean(|update| update.kl)),
        Figure::mean("entropy", learned.mean(|update| update.entropy)),
        Figure::mean("clip_ratio", low + high),
        Figure::mean("clip_ratio/low_mean", low),
        Figure::mean("clip_ratio/high_mean", high),
        Figure::mean("grad_norm", of_loss(|update| update.update.grad_norm)),
        Figure::count("trained_tokens", learned.tokens),
        Figure::count("mismatched_tokens", learned.mismatched),
    ]
}

/// The line of a window of steps; a dash for what nothing was measured of, and no `kl` without a reference.
fn line_of(averages: &Averages) -> String {
    let get = |name| averages.get(name);
    let shown = |name| figure(averages.get(name));
    let [scored, unscored] = ["answers_scored", "answers_unscored"].map(get);
    let of_all = match unscored > 0.0 {
        true => format!(" ({} of all, {unscored:.0} of {:.0} unscored)", shown("accuracy_of_all"), scored + unscored),
        false => String::new(),
    };
    let kl = if get("kl").is_nan() { String::new() } else { format!("  kl {:.4}", get("kl")) };
    format!(
        "reward {}  accuracy {}{of_all}  tool use {:.2} ok {:.2}  tokens {:.0}{kl}  entropy {}  grad norm {}  rollout {:.1} s  \
         update {:.1} s",
        shown("reward"),
        shown("accuracy"),
        get("tool_use"),
        get("tool_success"),
        get("completion_tokens"),
        shown("entropy"),
        shown("grad_norm"),
        get("rollout_seconds"),
        get("update_seconds"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::window::Window;
    use crate::train::learner;

    fn measured(kl: f64, grad_norm: f64) -> Measured {
        let update = learner::Update { grad_norm, applied: grad_norm.is_finite() };
        Measured { loss: 2.0 * kl, kl, entropy: 1.0, clip_low: 0.25, clip_high: kl / 4.0, update }
    }

    fn averages(figures: Vec<Figure>) -> Averages {
        let mut window = Window::default();
        window.add_step(figures);
        window.averages()
    }

    #[test]
    fn every_iteration_of_a_step_is_counted() {
        let updates = vec![measured(0.0, 3.0), measured(0.5, f64::NAN), measured(1.0, 4.0)];
        let found = averages(update_figures(&Learned { updates, tokens: 7, mismatched: 0 }, true));
        for (name, wanted) in [
            ("loss", 1.0),
            ("kl", 0.5),
            ("clip_ratio", 0.375),
            ("clip_ratio/low_mean", 0.25),
            ("clip_ratio/high_mean", 0.125),
            ("grad_norm", 3.5),
            ("trained_tokens", 7.0),
        ] {
            assert_eq!(found.get(name), wanted, "{name}");
        }
        assert!(averages(update_figures(&Learned::default(), true)).get("loss").is_nan());
    }

    #[test]
    fn the_line_of_a_step_says_how_many_answers_are_unscored() {
        let report = Report {
            count: 8,
            accuracy: 1.0,
            accuracy_of_all: 0.125,
            answers_scored: 1,
            answers_unscored: 7,
            ..Report::default()
        };
        let mut figures = report_figures(&report, &Batch::default());
        figures.push(Figure::mean("kl", f64::NAN));
        let line = line_of(&averages(figures));
        assert!(line.contains("accuracy 1.000 (0.125 of all, 7 of 8 unscored)  tool use"), "{line}");
        assert!(line.contains("entropy -  grad norm -") && !line.contains("kl"), "{line}");
        let report = Report { answers_scored: 8, answers_unscored: 0, ..report };
        let line = line_of(&averages(report_figures(&report, &Batch::default())));
        assert!(line.contains("accuracy 1.000  tool use"), "{line}");
    }
}
