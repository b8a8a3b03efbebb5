//! Supervised fine-tuning: maximum likelihood of the assistant's own words, over packs of demonstrations.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use super::dataset::{Dataset, DatasetError};
use super::learner::Learner;
use super::owners::Owners;
use super::run::{Run, TrainerState};
use super::sample::{Layout, Pack, Sample, runs_by_tokens};
use super::{Session, SkippedUpdates, TrainError, demonstration, device_metrics, open_learner};
use crate::prompt::Processor;
use crate::recipe::plan::Plan;
use crate::recipe::{LogprobKind, Recipe};
use crate::telemetry::window::{Figure, Rule};

/// Batches that are made ready ahead of the learner.
const BATCHES_AHEAD: usize = 4;

/// Trains to the plan's last step, or until the user stops it.
pub fn train(plan: &Plan, session: &Session) -> Result<(), TrainError> {
    let recipe = &plan.recipe;
    let processor = plan.processor()?;
    let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
    let (mut learner, TrainerState { global_step: start, mut skipped, .. }) = open_learner(plan, session, &processor)?;
    let steps = recipe.steps(dataset.len());
    let mut run = Run::open(plan, start, steps, session.stop.clone())?;
    std::thread::scope(|scope| {
        let batches = prepare_ahead(scope, &dataset, &processor, plan, start..steps);
        for step in start..steps {
            let began = Instant::now();
            let samples = batches.recv().expect("the preparing thread sends a batch a step")?;
            let learned = learn(&mut learner, &samples, &processor, recipe, step..steps, |learner| {
                if step == start {
                    let mut owners = Owners::default();
                    owners.note_update(learner);
                    run.say(&owners.table(session));
                }
            });
            run.advance(&format!("loss {:.3}", learned.loss));
            skipped.count(learned.update, step, recipe.training.max_skipped_updates)?;
            report(&mut run, session, step + 1, &learned, &skipped, began)?;
            run.save_if_due(step + 1, &learner, skipped)?;
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
    dataset: &'scope Dataset,
    processor: &'scope Processor,
    plan: &'scope Plan,
    steps: std::ops::Range<u64>,
) -> Receiver<Result<Vec<Sample>, TrainError>> {
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    scope.spawn(move || {
        for step in steps {
            let batch = prepare(dataset, processor, plan, step);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn prepare(dataset: &Dataset, processor: &Processor, plan: &Plan, step: u64) -> Result<Vec<Sample>, TrainError> {
    let size = plan.recipe.training.batch_size as u64;
    let one = |number| {
        let sample = demonstration::sample(processor, &dataset.example(number)?, plan.recipe.sft.train_turns)
            .map_err(|source| DatasetError::Example { example: dataset.name_of(number), source })?;
        let (tokens, limit) = (sample.tokens(), plan.config.context_tokens);
        if tokens > limit {
            return Err(DatasetError::TooLong { example: dataset.name_of(number), tokens, limit }.into());
        }
        Ok(sample)
    };
    (step * size..(step + 1) * size).map(one).collect()
}

/// What a step did.
struct Learned {
    loss: f64,
    tokens: usize,
    targets: usize,
    learning_rate: f64,
    update: super::learner::Update,
}

/// One update: the mean negative log-likelihood of all learned tokens of the batch.
/// `steps` are this step and those to come; `look` sees the learner when all gradients are there.
fn learn(
    learner: &mut Learner,
    samples: &[Sample],
    processor: &Processor,
    recipe: &Recipe,
    steps: std::ops::Range<u64>,
    look: impl FnOnce(&Learner),
) -> Learned {
    let layout = Layout::of(processor);
    let targets: usize = samples.iter().map(|s| s.targets().count()).sum();
    let tokens: Vec<usize> = samples.iter().map(Sample::tokens).collect();
    let mut loss = 0.0;
    for run in runs_by_tokens(&tokens, recipe.training.micro_batch_tokens) {
        let members: Vec<&Sample> = samples[run].iter().collect();
        let pack = Pack::new(&members, layout);
        learner.accumulate(&pack, &vec![1.0; pack.targets.len()], LogprobKind::Raw, |logprobs| {
            loss -= logprobs.raw.iter().map(|&l| f64::from(l)).sum::<f64>() / targets as f64;
            vec![-1.0 / targets as f32; logprobs.raw.len()]
        });
    }
    let learning_rate = recipe.optimizer.learning_rate_at(steps.start, steps.end);
    look(learner);
    let update = learner.update(learning_rate);
    Learned { loss, tokens: tokens.iter().sum(), targets, learning_rate, update }
}

fn report(
    run: &mut Run,
    session: &Session,
    step: u64,
    learned: &Learned,
    skipped: &SkippedUpdates,
    began: Instant,
) -> Result<(), TrainError> {
    let figures = vec![
        Figure::mean("loss", learned.loss),
        Figure::mean("grad_norm", learned.update.grad_norm),
        Figure::new("learning_rate", learned.learning_rate, Rule::Last),
        Figure::mean("tokens", learned.tokens as f64),
        Figure::mean("trained_tokens", learned.targets as f64),
        Figure::mean("tokens_per_second", learned.tokens as f64 / began.elapsed().as_secs_f64()),
        Figure::new("skipped_updates", skipped.total as f64, Rule::Last),
    ];
    let Some(averages) = run.close_step(step, figures) else { return Ok(()) };
    run.say(&format!(
        "step {step}/{}  loss {:.4}  grad norm {:.3}  learning rate {:.2e}  {:.0} tokens/s",
        run.steps,
        averages.get("loss"),
        averages.get("grad_norm"),
        averages.get("learning_rate"),
        averages.get("tokens_per_second")
    ));
    let values: Vec<(&str, f64)> = averages.iter().chain(device_metrics(session)).collect();
    run.log(step, &values)
}
