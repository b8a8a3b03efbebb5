//! GRPO with adaptive temperature: roll out, reward, learn, in place, on one copy of the weights.

mod evaluation;
mod report;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug_span;

use super::batch::Batch;
use super::dataset::{Dataset, held_out_tasks};
use super::left_out::LeftOut;
use super::memory_report::MemoryReport;
use super::policy::{Learned, Policy, PolicySettings};
use super::run::{Run, TrainerState};
use super::sample::Layout;
use super::sizes::engine_limits;
use super::{Session, SkippedUpdates, TrainError, open_learner, starting_weights};
use crate::engine::{Engine, Statistics};
use crate::prompt::Processor;
use crate::recipe::Recipe;
use crate::recipe::plan::Plan;
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::Environment;
use crate::rollout::reward_set::RewardSet;
use crate::rollout::scored::{Rollouts, run_scored};
use crate::rollout::task::Task;
use crate::rollout::trajectory::End;
use crate::rollout::{Group, RolloutSettings};

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

impl<'a> Trainer<'a> {
    fn open(plan: &'a Plan, session: &'a Session) -> Result<Trainer<'a>, TrainError> {
        let recipe = &plan.recipe;
        let processor = Arc::new(plan.processor()?);
        let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
        let (held_out_data, held_out) = held_out_tasks(recipe)?;
        let rewards = RewardSet::new(&recipe.reward, &plan.registry)?;
        rewards.start()?;
        let (environment, tools) = recipe.environment_and_tools();
        let environment = plan.registry.environment(environment, &tools)?;
        let (learner, state) = open_learner(plan, session, &processor)?;
        let model = learner.model();
        let reference = match recipe.grpo.beta > 0.0 {
            true => Some(starting_weights(plan, model)?),
            false => None,
        };
        let limits = engine_limits(plan, model.backend.activation_bytes());
        let engine = Engine::new(model.clone(), processor.clone(), limits).with_speculation(recipe.engine.speculation);
        let run = Run::open(plan, state.global_step, recipe.steps(dataset.len()), session.stop.clone())?;
        let versions = environment.versions().into_iter().chain(rewards.versions());
        run.note_versions(versions.collect())?;
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
        let (processor, environment) = (&*self.processor, &*self.environment);
        let rollouts = run_scored(&mut generator, processor, environment, tasks, &settings, &self.rewards)?;
        if let Some(memory_report) = &mut self.memory_report {
            memory_report.note_rollout(
                &self.policy.learner,
                self.policy.reference.as_ref(),
                self.engine.page_tensors(),
            );
        }
        self.say_faults(step, &rollouts.groups)?;
        Ok(rollouts)
    }

    /// Names the tasks that could not be rolled out, and counts those that cannot be used; they have no score and teach nothing.
    fn say_faults(&mut self, step: u64, groups: &[Group]) -> Result<(), TrainError> {
        let updates = self.policy.learner.updates();
        let before = TrainerState { global_step: step, updates, skipped: self.skipped, left_out: self.left_out };
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
                self.run.save_before_end(before, &self.policy.learner)?;
                return Err(TrainError::NoTask { count: groups.len(), step: step + 1, reason });
            }
        }
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
}
