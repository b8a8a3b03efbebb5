//! The loop of runs that learn from examples: each step draws a batch, adds its gradient up, updates, reports, saves. What an example is, and
//! what is added up, is said by the method: supervised fine-tuning or preferences.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::dataset::DatasetError;
use super::grad_norms::GradNorms;
use super::learner::{Learner, Update};
use super::memory_report::MemoryReport;
use super::run::Run;
use super::session::{device_metrics, peak_flops};
use super::starting_weights::starting_weights;
use super::step_time::{StepClock, split};
use super::trainer_state::TrainerState;
use super::{Session, TrainError, open_learner};
use crate::model::parameters::Weights;
use crate::prompt::Processor;
use crate::recipe::plan::Plan;
use crate::recipe::{Method, Recipe};
use crate::telemetry::window::{Aggregation, Metric};

/// Batches that are made ready ahead of the learner.
const BATCHES_AHEAD: usize = 4;

/// A run that learns from examples, at its start or where it resumes.
pub(super) struct ExampleLoop<'a> {
    recipe: &'a Recipe,
    session: &'a Session,
    run: Run,
    learner: Learner,
    /// The starting weights, where the method's loss has a reference.
    reference: Option<Weights>,
    state: TrainerState,
    /// Different examples; none where there is no end.
    examples: Option<usize>,
    grad_norms: GradNorms,
    clock: StepClock,
}

/// What the gradient of a batch was added up from.
pub(super) struct Accumulated {
    /// The batch's loss.
    pub loss: f64,
    /// Tokens of all samples.
    pub tokens: usize,
    /// Those among them that are learned.
    pub trained_tokens: usize,
    /// Time that a reference took.
    pub reference: Duration,
    /// What else the method measures.
    pub metrics: Vec<Metric>,
}

/// A step's examples.
struct Batch<E> {
    /// Those that can be used, in order.
    examples: Vec<E>,
    /// The others: which each is, and why not.
    left_out: Vec<String>,
}

/// What a step did.
struct Learned {
    accumulated: Accumulated,
    learning_rate: f64,
    /// None where there was nothing to learn from.
    update: Option<Update>,
    /// All of it, and the optimizer's part of it.
    time: Duration,
    optimizer: Duration,
}

impl<'a> ExampleLoop<'a> {
    /// Opens the run's folder, its weights, and those of the reference.
    pub fn open(
        plan: &'a Plan,
        session: &'a Session,
        processor: &Processor,
        examples: Option<usize>,
    ) -> Result<ExampleLoop<'a>, TrainError> {
        let recipe = &plan.recipe;
        let (learner, state) = open_learner(plan, session, processor)?;
        let has_reference = recipe.method == Method::Dpo;
        let reference = has_reference.then(|| starting_weights(plan, learner.model())).transpose()?;
        let run = Run::open(plan, state.global_step, recipe.steps(examples), session.stop.clone())?;
        run.note_versions(BTreeMap::new())?;
        let grad_norms = GradNorms::new(recipe.training.log_grad_norms);
        let clock = StepClock::new(peak_flops(session));
        Ok(ExampleLoop { recipe, session, run, learner, reference, state, examples, grad_norms, clock })
    }

    /// Trains to the last step, or until the user stops it. `draw` gives the example of a number, on another thread; `accumulate` adds the gradient
    /// of a batch's mean loss, which the update then takes.
    pub fn run<E: Send>(
        mut self,
        draw: impl Fn(u64) -> Result<E, DatasetError> + Sync,
        mut accumulate: impl FnMut(&mut Learner, Option<&Weights>, &[E]) -> Accumulated,
    ) -> Result<(), TrainError> {
        let (steps, batch_size) = (self.run.start..self.run.steps, self.recipe.training.batch_size);
        let mut memory_report = Some(MemoryReport::default());
        std::thread::scope(|scope| {
            let batches = prepare_ahead(scope, &draw, batch_size as u64, steps.clone());
            for step in steps {
                let began = Instant::now();
                let batch = batches.recv().expect("the preparing thread sends a batch a step");
                let data = began.elapsed();
                self.count_left_out(&batch, step)?;
                let learned = self.learn(&batch.examples, &mut accumulate, step, &mut memory_report);
                self.run.advance(&format!("loss {:.3}", learned.accumulated.loss));
                if let Some(update) = learned.update {
                    self.state.skipped.count(update, step + 1, self.recipe.training.max_skipped_updates)?;
                }
                self.report(step + 1, learned, data)?;
                let done = TrainerState { global_step: step + 1, updates: self.learner.updates(), ..self.state };
                self.run.save_if_due(done, &self.learner)?;
                if self.run.is_stopping() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Names the examples that cannot be used, and ends the run where they are too many.
    fn count_left_out<E>(&mut self, batch: &Batch<E>, step: u64) -> Result<(), TrainError> {
        for reason in &batch.left_out {
            self.run.say(&format!("left out at step {}: {reason}", step + 1));
        }
        let before = TrainerState { global_step: step, updates: self.learner.updates(), ..self.state };
        let (drawn, most) = (self.recipe.training.batch_size, self.recipe.data.max_left_out);
        if let Err(too_many) = self.state.left_out.count(drawn, &batch.left_out, self.examples, step + 1, most) {
            self.run.save_before_end(before, &self.learner)?;
            return Err(too_many);
        }
        Ok(())
    }

    /// One update; none where the batch is empty. The memory report is shown when all gradients of the first are there.
    fn learn<E>(
        &mut self,
        examples: &[E],
        accumulate: &mut impl FnMut(&mut Learner, Option<&Weights>, &[E]) -> Accumulated,
        step: u64,
        memory_report: &mut Option<MemoryReport>,
    ) -> Learned {
        let (began, optimizer) = (Instant::now(), self.learner.optimizer_time());
        let learning_rate = self.recipe.optimizer.learning_rate_at(step, self.run.steps);
        let mut accumulated = accumulate(&mut self.learner, self.reference.as_ref(), examples);
        if examples.is_empty() {
            accumulated.loss = f64::NAN;
            return Learned {
                accumulated,
                learning_rate,
                update: None,
                time: began.elapsed(),
                optimizer: Duration::ZERO,
            };
        }
        self.grad_norms.note(&self.learner);
        if let Some(mut memory_report) = memory_report.take() {
            memory_report.note_reference(&self.learner, self.reference.as_ref());
            memory_report.note_update(&self.learner);
            self.run.say(&memory_report.table(self.session));
        }
        let update = Some(self.learner.update(learning_rate));
        let optimizer = self.learner.optimizer_time() - optimizer;
        Learned { accumulated, learning_rate, update, time: began.elapsed(), optimizer }
    }

    /// Logs a step, which waited for its examples for so long.
    fn report(&mut self, step: u64, learned: Learned, data: Duration) -> Result<(), TrainError> {
        let times = self.time_metrics(&learned, data);
        let Learned { accumulated, learning_rate, update, .. } = learned;
        let tokens = accumulated.tokens as f64;
        let mut metrics = vec![
            Metric::mean("loss", accumulated.loss),
            Metric::mean("grad_norm", update.map_or(f64::NAN, |update| update.grad_norm)),
            Metric::new("learning_rate", learning_rate, Aggregation::Last),
            Metric::mean("tokens", tokens),
            Metric::mean("trained_tokens", accumulated.trained_tokens as f64),
            Metric::new("skipped_updates", self.state.skipped.total as f64, Aggregation::Last),
            Metric::new("left_out", self.state.left_out.total() as f64, Aggregation::Last),
        ];
        metrics.extend(times);
        metrics.extend(accumulated.metrics);
        metrics.extend(self.grad_norms.take());
        let Some(averages) = self.run.close_step(step, metrics) else { return Ok(()) };
        // A step without an example has no loss.
        let shown = |name, digits: usize| match averages.get(name) {
            value if value.is_nan() => "-".to_owned(),
            value => format!("{value:.digits$}"),
        };
        let margins = match self.recipe.method {
            Method::Dpo => {
                format!("  margin {}  accuracy {}", shown("rewards/margins", 3), shown("rewards/accuracies", 3))
            }
            Method::Sft | Method::Grpo => String::new(),
        };
        self.run.say(&format!(
            "step {step}/{}  loss {}{margins}  grad norm {}  learning rate {:.2e}  {:.0} tokens/s",
            self.run.steps,
            shown("loss", 4),
            shown("grad_norm", 3),
            averages.get("learning_rate"),
            averages.get("tokens_per_second")
        ));
        let values: Vec<(&str, f64)> = averages.iter().chain(device_metrics(self.session)).collect();
        self.run.log(step, &values)
    }

    /// Where the time of a step went.
    fn time_metrics(&mut self, learned: &Learned, data: Duration) -> Vec<Metric> {
        let (whole, computed) = self.clock.end_step(self.learner.flops());
        let reference = learned.accumulated.reference;
        let update = learned.time.saturating_sub(reference);
        let of_reference = self.reference.is_some().then_some(("reference_seconds", reference));
        let parts =
            [("data_seconds", data), ("update_seconds", update), ("checkpoint_seconds", self.run.take_saving_time())];
        let mut metrics = split(whole, &parts.into_iter().chain(of_reference).collect::<Vec<_>>());
        metrics.push(Metric::mean("optimizer_seconds", learned.optimizer.as_secs_f64()));
        metrics.push(Metric::mean("tokens_per_second", learned.accumulated.tokens as f64 / whole.as_secs_f64()));
        metrics.extend(self.clock.mfu(computed, update));
        metrics
    }
}

/// A thread that draws, decodes and tokenises, in order, a few batches ahead.
fn prepare_ahead<'scope, E: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    draw: &'scope (impl Fn(u64) -> Result<E, DatasetError> + Sync),
    batch_size: u64,
    steps: Range<u64>,
) -> Receiver<Batch<E>> {
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    scope.spawn(move || {
        for step in steps {
            let mut batch = Batch { examples: Vec::new(), left_out: Vec::new() };
            for number in step * batch_size..(step + 1) * batch_size {
                match draw(number) {
                    Ok(example) => batch.examples.push(example),
                    Err(error) => batch.left_out.push(error.to_string()),
                }
            }
            if sender.send(batch).is_err() {
                return;
            }
        }
    });
    receiver
}
