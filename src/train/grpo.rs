//! GRPO with adaptive temperature: roll out, reward, learn, in place, on one copy of the weights.

use std::sync::Arc;
use std::time::Instant;

use tracing::debug_span;

use super::advantage::{group_advantages, teaches};
use super::dataset::{Dataset, DatasetError};
use super::learner::{Learner, Update, logprobs};
use super::left_out::LeftOut;
use super::loss::{TokenLogprobs, token_loss, token_weights};
use super::owners::Owners;
use super::run::{Run, TrainerState};
use super::sample::{Layout, Pack, Sample, SampleImage, runs_by_tokens};
use super::{Session, SkippedUpdates, TrainError, device_metrics, open_learner, starting_weights};
use crate::checkpoint::CheckpointError;
use crate::engine::{Engine, Statistics};
use crate::eval::{Report, evaluate, sample, score_groups};
use crate::model::parameters::Weights;
use crate::prompt::Processor;
use crate::recipe::memory::engine_limits;
use crate::recipe::plan::Plan;
use crate::recipe::{LogprobKind, Method, Recipe};
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::{Environment, Task};
use crate::rollout::registry::{self, RegistryError};
use crate::rollout::reward::{RewardSet, Scores};
use crate::rollout::transcript::{End, Transcript};
use crate::rollout::{Group, RolloutSettings, ToolWait, run_timed};

/// A figure of a report.
type Figure = fn(&Report) -> f64;

/// What an evaluation logs, and the end of a run compares.
const HELD_OUT: [(&str, Figure); 5] = [
    ("held_out/accuracy", Report::accuracy),
    ("held_out/reward", |report| report.reward),
    ("held_out/tool_use", |report| report.tool_use),
    ("held_out/tool_success", |report| report.tool_success),
    ("held_out/completion_tokens", |report| report.tokens),
];
/// Values of [`HELD_OUT`].
type HeldOut = [f64; HELD_OUT.len()];

/// Transcripts of an evaluation that are written as pages.
const SAMPLES: usize = 4;

/// Trains to the plan's last step, or until the user stops it.
pub fn train(plan: &Plan, session: &Session) -> Result<(), TrainError> {
    let mut trainer = Trainer::open(plan, session)?;
    let steps = plan.recipe.training.max_steps;
    let start = trainer.run.start;
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
        trainer.run.save_if_due(step + 1, steps, &trainer.learner, trainer.skipped, trainer.left_out)?;
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
    learner: Learner,
    reference: Option<Weights>,
    engine: Engine,
    environment: Arc<dyn Environment>,
    rewards: RewardSet,
    dataset: Dataset,
    held_out: Vec<Task>,
    skipped: SkippedUpdates,
    left_out: LeftOut,
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

/// What a step learns from: transcripts with an advantage.
struct Batch {
    rollouts: Vec<Learnable>,
    /// Groups without any advantage, which are left out.
    groups_left_out: usize,
}

/// A transcript as the learner takes it; per token of `sample`.
struct Learnable {
    sample: Sample,
    /// Log-probability under the weights that drew it; 0 where not learned.
    old: Vec<f32>,
    /// Temperature of the loss's log-probability.
    temperatures: Vec<f32>,
    advantage: f64,
}

/// What the updates of a step did; means over learned tokens.
#[derive(Default)]
struct Learned {
    updates: Vec<Update>,
    learning_rate: f64,
    loss: f64,
    kl: f64,
    clipped: f64,
    entropy: f64,
    tokens: usize,
    /// Learned tokens whose log-probability is not the sampler's to the bit, at the first update.
    mismatched: usize,
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
        let run = Run::open(plan, state.global_step, session.stop.clone())?;
        let (skipped, left_out) = (state.skipped, state.left_out);
        Ok(Trainer {
            recipe,
            session,
            run,
            processor,
            learner,
            reference,
            engine,
            environment,
            rewards,
            dataset,
            held_out,
            skipped,
            left_out,
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
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: self.learner.weights() };
        let (groups, tool_wait) = run_timed(&mut generator, &self.processor, &*self.environment, tasks, &settings)?;
        if let Some(owners) = &mut self.owners {
            owners.note_rollout(&self.learner, self.reference.as_ref(), self.engine.page_tensors());
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
        let updates = self.learner.updates();
        let before = TrainerState { global_step: step, updates, skipped: self.skipped, left_out: self.left_out };
        let most = self.recipe.data.max_left_out;
        let counted = self.left_out.count(groups.len(), &unusable, self.dataset.len(), step + 1, most);
        if counted.is_err() {
            self.run.save_before_end(before, &self.learner)?;
        }
        counted
    }

    fn batch(&mut self, rollouts: &Rollouts) -> Batch {
        let settings = &self.recipe.grpo;
        let mut batch = Batch { rollouts: Vec::new(), groups_left_out: 0 };
        for (group, scores) in rollouts.groups.iter().zip(&rollouts.scores) {
            let rewards: Vec<Option<f64>> = scores.iter().map(|s| s.total.value()).collect();
            let advantages = group_advantages(&rewards, settings.scale_rewards);
            if settings.filter_zero_advantage && !teaches(&advantages) {
                batch.groups_left_out += 1;
                continue;
            }
            for (transcript, advantage) in group.transcripts.iter().zip(advantages) {
                let masked = settings.mask_truncated_completions && transcript.end.is_truncated();
                if let Some(advantage) = advantage.filter(|_| !masked) {
                    batch.rollouts.push(learnable(transcript, advantage, self.recipe, &self.engine));
                }
            }
        }
        self.engine.forget_images();
        self.engine.release_pages();
        batch
    }

    /// Updates on the batch as often as the recipe says.
    fn learn(&mut self, batch: &Batch, step: u64) -> Result<Learned, TrainError> {
        let (iterations, steps) = (self.recipe.grpo.num_iterations as u64, self.recipe.training.max_steps);
        let mut learned = Learned::default();
        for iteration in 0..iterations {
            learned.learning_rate =
                self.recipe.optimizer.learning_rate_at(step * iterations + iteration, steps * iterations);
            self.accumulate(batch, &mut learned, iteration == 0);
            if learned.tokens > 0 {
                self.show_owners();
                let update = self.learner.update(learned.learning_rate);
                learned.updates.push(update);
                self.skipped.count(update, step + 1, self.recipe.training.max_skipped_updates)?;
            }
        }
        Ok(learned)
    }

    /// Shows whose memory is where, once, when gradients are there.
    fn show_owners(&mut self) {
        if let Some(mut owners) = self.owners.take() {
            owners.note_update(&self.learner);
            self.run.say(&owners.table(self.session));
        }
    }

    /// Adds the gradient of the batch's loss, pack by pack.
    fn accumulate(&mut self, batch: &Batch, learned: &mut Learned, is_first: bool) {
        let settings = &self.recipe.grpo;
        let layout = Layout::of(&self.processor);
        let counts: Vec<usize> = batch.rollouts.iter().map(|r| r.sample.targets().count()).collect();
        let weights = token_weights(settings.loss_type, &counts, self.environment.limits().total);
        let tokens: Vec<usize> = batch.rollouts.iter().map(|r| r.sample.tokens()).collect();
        let all: usize = counts.iter().sum();
        *learned = Learned {
            tokens: all,
            mismatched: learned.mismatched,
            updates: std::mem::take(&mut learned.updates),
            learning_rate: learned.learning_rate,
            ..Learned::default()
        };
        for span in runs_by_tokens(&tokens, self.recipe.training.micro_batch_tokens) {
            let (members, weights) = (&batch.rollouts[span.clone()], &weights[span]);
            let samples: Vec<&Sample> = members.iter().map(|member| &member.sample).collect();
            let pack = Pack::new(&samples, layout);
            if pack.targets.is_empty() {
                continue;
            }
            let of_targets = |values: fn(&Learnable) -> &Vec<f32>| -> Vec<f32> {
                pack.places.iter().map(|&(member, token)| values(&members[member])[token]).collect()
            };
            let temperatures = of_targets(|member| &member.temperatures);
            let old = of_targets(|member| &member.old);
            let reference = self.reference.as_ref().map(|reference| {
                let output = logprobs(self.learner.model(), reference, &pack, &temperatures, self.learner.settings());
                output.of(settings.logprob).to_vec()
            });
            self.learner.accumulate(&pack, &temperatures, settings.logprob, |output| {
                let new = output.of(settings.logprob);
                let one = |(i, &(member, _)): (usize, &(usize, usize))| {
                    let reference = reference.as_ref().map(|reference| reference[i]);
                    let token = TokenLogprobs { new: new[i], old: old[i], reference };
                    let loss = token_loss(settings, token, members[member].advantage);
                    learned.loss += weights[member] * loss.loss;
                    learned.kl += loss.kl / all as f64;
                    learned.clipped += f64::from(u8::from(loss.clipped)) / all as f64;
                    learned.entropy += f64::from(output.entropy[i]) / all as f64;
                    learned.mismatched += usize::from(is_first && new[i].to_bits() != old[i].to_bits());
                    (weights[member] * loss.dlogprob) as f32
                };
                pack.places.iter().enumerate().map(one).collect()
            });
        }
    }

    fn report(
        &mut self,
        step: u64,
        rollouts: &Rollouts,
        batch: &Batch,
        learned: &Learned,
        [began, rolled_out]: [Instant; 2],
    ) -> Result<(), TrainError> {
        let transcripts = rollouts.groups.iter().flat_map(|group| &group.transcripts);
        let report = Report::new(transcripts.clone().zip(rollouts.scores.iter().flatten()));
        let rollout_seconds = (rolled_out - began).as_secs_f64();
        let update_seconds = rolled_out.elapsed().as_secs_f64();
        let drawn: usize = transcripts.clone().map(Transcript::own_tokens).sum();
        let kept: f64 = transcripts.flat_map(Transcript::own).map(|(_, token)| f64::from(token.kept)).sum();
        let grad_norm = learned.updates.last().map_or(0.0, |update| update.grad_norm);
        self.run.advance(&format!("reward {:.2}", report.reward));
        if step.is_multiple_of(self.recipe.training.logging_steps) {
            self.run.say(&format!(
                "step {step}/{}  reward {:.3}  accuracy {:.3}  tool use {:.2} ok {:.2}  tokens {:.0}  kl {:.4}  entropy {:.3}  grad \
                 norm {grad_norm:.3}  rollout {rollout_seconds:.1} s  update {update_seconds:.1} s",
                self.recipe.training.max_steps,
                report.reward,
                report.accuracy(),
                report.tool_use,
                report.tool_success,
                report.tokens,
                learned.kl,
                learned.entropy,
            ));
        }
        let engine = self.engine.statistics().since(&self.engine_before);
        let mut values = vec![
            ("reward", report.reward),
            ("accuracy", report.accuracy()),
            ("tool_use", report.tool_use),
            ("tool_success", report.tool_success),
            ("completion_tokens", report.tokens),
            ("kept_mass", kept / drawn.max(1) as f64),
            ("unscored", report.unscored as f64),
            ("groups_left_out", batch.groups_left_out as f64),
            ("loss", learned.loss),
            ("kl", learned.kl),
            ("entropy", learned.entropy),
            ("clip_ratio", learned.clipped),
            ("grad_norm", grad_norm),
            ("learning_rate", learned.learning_rate),
            ("trained_tokens", learned.tokens as f64),
            ("mismatched_tokens", learned.mismatched as f64),
            ("skipped_updates", self.skipped.total as f64),
            ("left_out", self.left_out.total() as f64),
            ("rollout_seconds", rollout_seconds),
            ("update_seconds", update_seconds),
            ("rollout_tokens_per_second", drawn as f64 / rollout_seconds),
            ("engine/preemptions", engine.preemptions as f64),
            ("engine/prefix_hit_rate", engine.found_tokens as f64 / engine.begun_tokens.max(1) as f64),
            ("engine/encoded_images", engine.encoded_images as f64),
            ("engine/drafted_tokens", engine.drafted_tokens as f64),
            ("engine/accepted_tokens", engine.accepted_tokens as f64),
            ("tool_wait_hidden_seconds", rollouts.tool_wait.hidden.as_secs_f64()),
            ("tool_wait_open_seconds", rollouts.tool_wait.open.as_secs_f64()),
        ];
        let parts: Vec<(String, f64)> = report.parts.iter().map(|(n, v)| (format!("reward/{n}"), *v)).collect();
        let ends: Vec<(String, f64)> = report.ends.iter().map(|(n, c)| (format!("end/{n}"), *c as f64)).collect();
        values.extend(device_metrics(self.session));
        values.extend(parts.iter().chain(&ends).map(|(name, value)| (name.as_str(), *value)));
        self.run.log(step, &values)
    }

    /// Whether the recipe asks for an evaluation between the first and the last step.
    fn is_evaluation_due(&self, step: u64) -> bool {
        let every = self.recipe.evaluation.steps;
        every > 0 && (1..self.recipe.training.max_steps).contains(&step) && step.is_multiple_of(every)
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
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: self.learner.weights() };
        let (report, groups) =
            evaluate(&mut generator, &self.processor, &*self.environment, &self.held_out, &self.rewards)?;
        self.engine.forget_images();
        self.write_samples(&format!("held-out-{step}"), &groups)?;
        self.run.say(&format!(
            "held out at step {step}: accuracy {:.3} of {}, reward {:.3}, tool use {:.2}",
            report.accuracy(),
            report.count,
            report.reward,
            report.tool_use
        ));
        self.run.log(step, &HELD_OUT.map(|(name, value)| (name, value(&report))))?;
        Ok(Some(HELD_OUT.map(|(_, value)| value(&report))))
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
            self.run.say(&format!("{name:<20}{before:>10.3}{after:>10.3}"));
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

fn learnable(transcript: &Transcript, advantage: f64, recipe: &Recipe, engine: &Engine) -> Learnable {
    let settings = &recipe.grpo;
    let tokens = transcript.token_ids.len();
    let mut trained = vec![false; tokens];
    let mut old = vec![0.0; tokens];
    let mut temperatures = vec![1.0; tokens];
    for (i, token) in transcript.own() {
        trained[i] = token.temperature > 0.0 || settings.train_zero_temperature_tokens;
        old[i] = match settings.logprob {
            LogprobKind::Raw => token.raw,
            LogprobKind::Temperature => token.tempered,
        };
        if token.temperature > 0.0 {
            temperatures[i] = token.temperature;
        }
    }
    let is_frozen = recipe.model.freeze_vision_tower;
    let images = transcript
        .images
        .iter()
        .map(|image| SampleImage { prepared: image.clone(), units: is_frozen.then(|| engine.units(image)).flatten() });
    let sample = Sample { ids: transcript.token_ids.clone(), trained, images: images.collect() };
    Learnable { sample, old, temperatures, advantage }
}
