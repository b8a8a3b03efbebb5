//! Supervised fine-tuning: maximum likelihood of the assistant's own words, over packs of demonstrations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use image::RgbImage;

use super::dataset::{Dataset, DatasetError};
use super::demonstration::{self, Demonstration};
use super::grad_norms::GradNorms;
use super::learner::{Learner, Update};
use super::loss_mask::LossMask;
use super::max_length::truncate;
use super::memory_report::MemoryReport;
use super::run::Run;
use super::sample::{Layout, Pack, Sample, runs_by_tokens};
use super::session::device_metrics;
use super::trainer_state::TrainerState;
use super::{Session, TrainError, open_learner};
use crate::prompt::{ImageSource, Processor, PromptError};
use crate::recipe::plan::Plan;
use crate::recipe::{LogprobKind, MaxLengthAction, Recipe};
use crate::rollout::environment::Environment;
use crate::rollout::script::play;
use crate::rollout::task::Task;
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::TurnKind;
use crate::tasks::Example;
use crate::tasks::needle::variants::Lesson;
use crate::telemetry::window::{Aggregation, Metric};

/// Batches that are made ready ahead of the learner.
const BATCHES_AHEAD: usize = 4;

/// Trains to the plan's last step, or until the user stops it.
pub fn train(plan: &Plan, session: &Session) -> Result<(), TrainError> {
    let recipe = &plan.recipe;
    let processor = plan.processor()?;
    let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
    let demonstrations = Demonstrations::new(&dataset, &processor, plan)?;
    let (mut learner, TrainerState { global_step: start, mut skipped, mut left_out, .. }) =
        open_learner(plan, session, &processor)?;
    let steps = recipe.steps(dataset.len());
    let mut run = Run::open(plan, start, steps, session.stop.clone())?;
    run.note_versions(BTreeMap::new())?;
    let mut memory_report = Some(MemoryReport::default());
    let mut grad_norms = GradNorms::new(recipe.training.log_grad_norms);
    std::thread::scope(|scope| {
        let batches = prepare_ahead(scope, &demonstrations, start..steps);
        for step in start..steps {
            let began = Instant::now();
            let batch = batches.recv().expect("the preparing thread sends a batch a step");
            for reason in &batch.left_out {
                run.say(&format!("left out at step {}: {reason}", step + 1));
            }
            let (drawn, most) = (recipe.training.batch_size, recipe.data.max_left_out);
            let before =
                TrainerState { global_step: step, updates: learner.updates(), skipped, left_out, tasks_drawn: None };
            if let Err(too_many) = left_out.count(drawn, &batch.left_out, dataset.len(), step + 1, most) {
                run.save_before_end(before, &learner)?;
                return Err(too_many);
            }
            let learned = learn(&mut learner, &batch.samples, &processor, recipe, step..steps, |learner| {
                grad_norms.note(learner);
                if let Some(mut memory_report) = memory_report.take() {
                    memory_report.note_update(learner);
                    run.say(&memory_report.table(session));
                }
            });
            run.advance(&format!("loss {:.3}", learned.loss));
            if let Some(update) = learned.update {
                skipped.count(update, step + 1, recipe.training.max_skipped_updates)?;
            }
            let counts = [skipped.total, left_out.total()];
            report(&mut run, session, step + 1, &learned, counts, grad_norms.take(), began)?;
            let done = TrainerState {
                global_step: step + 1,
                updates: learner.updates(),
                skipped,
                left_out,
                tasks_drawn: None,
            };
            run.save_if_due(done, &learner)?;
            if run.is_stopping() {
                break;
            }
        }
        Ok(())
    })
}

/// A thread that draws, decodes and tokenises, in order, a few batches ahead.
fn prepare_ahead<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    demonstrations: &'scope Demonstrations<'_>,
    steps: std::ops::Range<u64>,
) -> Receiver<Batch> {
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    scope.spawn(move || {
        for step in steps {
            if sender.send(demonstrations.batch(step)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A step's examples.
#[derive(Default)]
struct Batch {
    /// Those that can be used, in order.
    samples: Vec<Sample>,
    /// The others: which each is, and why not.
    left_out: Vec<String>,
}

/// Where samples come from.
pub struct Demonstrations<'a> {
    dataset: &'a Dataset,
    processor: &'a Processor,
    plan: &'a Plan,
    /// Answers scripts; none where there are none.
    environment: Option<Arc<dyn Environment>>,
}

impl<'a> Demonstrations<'a> {
    /// The demonstrations of a data set. Those that are scripts are answered by the plan's environment.
    ///
    /// # Errors
    /// When the environment cannot be opened.
    pub fn new(dataset: &'a Dataset, processor: &'a Processor, plan: &'a Plan) -> Result<Self, TrainError> {
        let open = || {
            let (environment, tools) = plan.recipe.environment_and_tools();
            plan.registry.environment(environment, &tools)
        };
        let environment = dataset.has_scripts().then(open).transpose()?;
        Ok(Self { dataset, processor, plan, environment })
    }

    fn batch(&self, step: u64) -> Batch {
        let size = self.plan.recipe.training.batch_size as u64;
        let mut batch = Batch::default();
        for number in step * size..(step + 1) * size {
            match self.sample(number) {
                Ok(sample) => batch.samples.push(sample),
                Err(error) => batch.left_out.push(error.to_string()),
            }
        }
        batch
    }

    /// Example `number` as the learner takes it.
    ///
    /// # Errors
    /// When it cannot be used: a picture, its text, its script, or its length.
    pub fn sample(&self, number: u64) -> Result<Sample, DatasetError> {
        let example = match self.dataset.lesson(number)? {
            Lesson::Told(example) => example,
            Lesson::Script { task, turns } => {
                let environment = self.environment.as_deref().expect("a data set with scripts has an environment");
                self.played(environment, number, task, &turns)?
            }
        };
        let name = || self.dataset.name_of(number);
        let settings = &self.plan.recipe.sft;
        let mut sample = demonstration::sample(self.processor, &example, LossMask::of(settings))
            .map_err(|source| DatasetError::Example { example: name(), source })?;
        if let Some(limit) = settings.max_length.filter(|&limit| sample.tokens() > limit) {
            let tokens = sample.tokens();
            if settings.max_length_action == MaxLengthAction::LeaveOut {
                return Err(DatasetError::MaxLength { example: name(), tokens, limit });
            }
            truncate(&mut sample, limit, self.processor);
            if sample.targets().next().is_none() {
                return Err(DatasetError::NothingLearned { example: name(), tokens, limit });
            }
        }
        let (tokens, limit) = (sample.tokens(), self.plan.checkpoint.config.context_tokens);
        if tokens > limit {
            return Err(DatasetError::TooLong { example: name(), tokens, limit });
        }
        Ok(sample)
    }

    /// The demonstration that a script becomes: the environment's words, and the pictures that its tools made.
    fn played(
        &self,
        environment: &dyn Environment,
        number: u64,
        task: Example,
        script: &[String],
    ) -> Result<Example, DatasetError> {
        let wrong = |problem: String| DatasetError::Script {
            example: self.dataset.name_of(number),
            environment: environment.name(),
            problem,
        };
        let task = Task::of_example(task).map_err(PromptError::from)?;
        let trajectory = play(self.processor, environment, &task, script).map_err(|error| wrong(error.to_string()))?;
        let failed = trajectory.calls.iter().find(|call| call.output.status != CallStatus::Ok);
        if let Some(call) = failed {
            return Err(wrong(format!("{}: {}", call.tool, call.output.text)));
        }
        if trajectory.turns.iter().filter(|turn| turn.kind != TurnKind::Observation).count() < script.len() {
            return Err(wrong(format!("the sequence ended early, by {:?}", trajectory.end.name())));
        }
        let demonstration = Demonstration::of(&trajectory, self.processor.image_settings());
        let demonstration = demonstration.ok_or_else(|| wrong("a picture of it was not kept".to_owned()))?;
        let picture = |source: &ImageSource| source.load(&task.folder).map(|picture| RgbImage::clone(&picture));
        let images = demonstration.images.iter().map(picture).collect::<Result<_, _>>();
        let images = images.map_err(|error| wrong(error.to_string()))?;
        let Demonstration { messages, tools, .. } = demonstration;
        Ok(Example { messages, images, solution: None, question: None, tools })
    }
}

/// What a step did.
struct Learned {
    /// Not a number where there was nothing to learn from.
    loss: f64,
    tokens: usize,
    targets: usize,
    learning_rate: f64,
    update: Option<Update>,
}

/// One update: the mean negative log-likelihood of all learned tokens of the batch; none where the batch is empty.
/// `steps` are this step and those to come; `look` sees the learner when all gradients are there.
fn learn(
    learner: &mut Learner,
    samples: &[Sample],
    processor: &Processor,
    recipe: &Recipe,
    steps: std::ops::Range<u64>,
    look: impl FnOnce(&Learner),
) -> Learned {
    let loss = accumulate(learner, samples, Layout::of(processor), recipe.training.micro_batch_tokens);
    let targets = samples.iter().map(|sample| sample.targets().count()).sum();
    let tokens = samples.iter().map(Sample::tokens).sum();
    let learning_rate = recipe.optimizer.learning_rate_at(steps.start, steps.end);
    if samples.is_empty() {
        return Learned { loss: f64::NAN, tokens: 0, targets, learning_rate, update: None };
    }
    look(learner);
    let update = Some(learner.update(learning_rate));
    Learned { loss, tokens, targets, learning_rate, update }
}

/// Adds the gradient of the mean negative log-likelihood of all learned tokens of the samples, and returns that mean. The samples are packed: as
/// many one behind the other in a forward and backward as have at most `micro_batch_tokens` tokens, none of which sees another sample's.
pub fn accumulate(learner: &mut Learner, samples: &[Sample], layout: Layout, micro_batch_tokens: usize) -> f64 {
    let targets: usize = samples.iter().map(|sample| sample.targets().count()).sum();
    let tokens: Vec<usize> = samples.iter().map(Sample::tokens).collect();
    let mut loss = 0.0;
    for run in runs_by_tokens(&tokens, micro_batch_tokens) {
        let members: Vec<&Sample> = samples[run].iter().collect();
        let pack = Pack::new(&members, layout);
        learner.accumulate(&pack, &vec![1.0; pack.targets.len()], LogprobKind::Raw, |logprobs| {
            loss -= logprobs.logprob.iter().map(|&l| f64::from(l)).sum::<f64>() / targets as f64;
            vec![-1.0 / targets as f32; logprobs.logprob.len()]
        });
    }
    loss
}

fn report(
    run: &mut Run,
    session: &Session,
    step: u64,
    learned: &Learned,
    [skipped, left_out]: [u64; 2],
    grad_norms: Vec<Metric>,
    began: Instant,
) -> Result<(), TrainError> {
    let mut metrics = vec![
        Metric::mean("loss", learned.loss),
        Metric::mean("grad_norm", learned.update.map_or(f64::NAN, |update| update.grad_norm)),
        Metric::new("learning_rate", learned.learning_rate, Aggregation::Last),
        Metric::mean("tokens", learned.tokens as f64),
        Metric::mean("trained_tokens", learned.targets as f64),
        Metric::mean("tokens_per_second", learned.tokens as f64 / began.elapsed().as_secs_f64()),
        Metric::new("skipped_updates", skipped as f64, Aggregation::Last),
        Metric::new("left_out", left_out as f64, Aggregation::Last),
    ];
    metrics.extend(grad_norms);
    let Some(averages) = run.close_step(step, metrics) else { return Ok(()) };
    // A step without an example has no loss.
    let shown = |name, digits: usize| match averages.get(name) {
        value if value.is_nan() => "-".to_owned(),
        value => format!("{value:.digits$}"),
    };
    run.say(&format!(
        "step {step}/{}  loss {}  grad norm {}  learning rate {:.2e}  {:.0} tokens/s",
        run.steps,
        shown("loss", 4),
        shown("grad_norm", 3),
        averages.get("learning_rate"),
        averages.get("tokens_per_second")
    ));
    let values: Vec<(&str, f64)> = averages.iter().chain(device_metrics(session)).collect();
    run.log(step, &values)
}
