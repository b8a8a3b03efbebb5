//! GRPO with adaptive temperature: roll out, reward, learn, in place, on one copy of the weights.

mod draws;
mod evaluation;
mod monitor;
mod report;
mod selection;
pub mod warnings;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use monitor::Monitor;
use tracing::debug_span;

use super::batch::{Batch, BatchSettings, ScoredGroup};
use super::curriculum::Curriculum;
use super::dataset::{Dataset, held_out_tasks};
use super::judge_watch::JudgeWatch;
use super::left_out::LeftOut;
use super::local_judge::LocalJudge;
use super::memory_report::MemoryReport;
use super::policy::{Learned, Policy, PolicySettings};
use super::replay::ReplayBuffer;
use super::run::Run;
use super::sample::Layout;
use super::sizes::engine_limits;
use super::trainer_state::{Saved, TrainerState};
use super::{Session, SkippedUpdates, TrainError, open_learner, reference_model};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::resume::CHECKPOINT;
use crate::engine::{Engine, Statistics};
use crate::prompt::Processor;
use crate::recipe::plan::Plan;
use crate::recipe::{KlIn, Recipe, Refill};
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::Environment;
use crate::rollout::reward_set::RewardSet;
use crate::rollout::scored::{Rollouts, run_scored};
use crate::rollout::task::Task;
use crate::rollout::trajectory::End;
use crate::rollout::{Group, RolloutSettings};
use selection::{has_enough, select};

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
        let (tasks, rollouts) = trainer.roll_out(step)?;
        let rolled_out = Instant::now();
        let mut batch = trainer.batch(&rollouts, step);
        let learned = trainer.learn(&mut batch, step)?;
        trainer.report(step + 1, &tasks, &rollouts, &batch, &learned, [began, rolled_out])?;
        trainer.write_completions(step + 1, &tasks, &rollouts)?;
        trainer.policy.sync_reference(step + 1);
        let state = trainer.state(step + 1);
        let (replay, curriculum) = (trainer.replay.as_ref(), trainer.curriculum.as_ref());
        let saved = Saved { replay, curriculum, ..trainer.policy.saved() };
        trainer.run.save_if_due(state, saved)?;
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

/// The rewards of a plan, with its judge; one beside the policy is loaded.
fn rewards_of(plan: &Plan, session: &Session) -> Result<RewardSet, TrainError> {
    let settings = &plan.recipe.reward;
    let (Some(checkpoint), Some(processor), Some(backend), Some(judge)) =
        (&plan.judge, plan.judge_processor(), &session.judge_backend, &settings.judge)
    else {
        return Ok(RewardSet::new(settings, &plan.registry)?);
    };
    let judge = LocalJudge::start(checkpoint, Arc::new(processor?), backend.clone(), judge)?;
    Ok(RewardSet::with_judge(settings, &plan.registry, Some(Arc::new(judge)))?)
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
    /// Tasks that were drawn so far, and those that the curriculum passed over.
    tasks_drawn: u64,
    /// None where the recipe has none.
    curriculum: Option<Curriculum>,
    /// Rollouts that later steps may replay; none where the recipe has no replay.
    replay: Option<ReplayBuffer>,
    judge_watch: JudgeWatch,
    /// Steps in a row with nothing to learn.
    idle_steps: u64,
    /// What the engine had done before the step.
    engine_before: Statistics,
    /// Until the first step has shown them.
    memory_report: Option<MemoryReport>,
    monitor: Monitor,
}

impl<'a> Trainer<'a> {
    fn open(plan: &'a Plan, session: &'a Session) -> Result<Trainer<'a>, TrainError> {
        let recipe = &plan.recipe;
        let processor = Arc::new(plan.processor()?);
        let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
        let (held_out_data, held_out) = held_out_tasks(recipe)?;
        let rewards = rewards_of(plan, session)?;
        rewards.start()?;
        let (environment, tools) = recipe.environment_and_tools();
        let environment = plan.registry.environment(environment, &tools)?;
        let (learner, state) = open_learner(plan, session, &processor)?;
        let model = learner.model();
        let reference = reference_model::open(plan, model, state.global_step)?;
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
        let monitor = Monitor::new(recipe, session, &dataset, &run);
        let curriculum = open_curriculum(plan, &dataset, state.global_step)?;
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
            tasks_drawn: state.tasks_drawn.unwrap_or(state.global_step * recipe.grpo.tasks_per_batch() as u64),
            curriculum,
            replay: open_replay(plan, state.global_step)?,
            judge_watch: JudgeWatch::new(&recipe.reward),
            idle_steps: 0,
            engine_before: Statistics::default(),
            memory_report: Some(MemoryReport::default()),
            monitor,
        })
    }

    /// What a checkpoint says of the run when `step` steps are done.
    fn state(&self, step: u64) -> TrainerState {
        TrainerState {
            global_step: step,
            updates: self.policy.learner.updates(),
            skipped: self.skipped,
            left_out: self.left_out,
            tasks_drawn: Some(self.tasks_drawn),
        }
    }

    /// What a checkpoint holds besides.
    fn saved(&self) -> Saved<'_> {
        let (replay, curriculum) = (self.replay.as_ref(), self.curriculum.as_ref());
        Saved { replay, curriculum, ..self.policy.saved() }
    }

    /// Rolls out the tasks of a step: one batch, or several until enough groups have a signal.
    fn roll_out(&mut self, step: u64) -> Result<(Vec<Task>, Rollouts), TrainError> {
        let _span = debug_span!("roll out", step).entered();
        let before = self.state(step);
        self.engine_before = self.engine.statistics();
        let grpo = &self.recipe.grpo;
        let (mut numbers, mut tasks, mut rollouts) = (Vec::new(), Vec::new(), Rollouts::default());
        for _ in 0..grpo.max_num_gen_batches {
            let (of_batch, more) = self.draw()?;
            rollouts.add(self.roll_out_batch(&more)?);
            self.tasks_drawn = of_batch.last().map_or(self.tasks_drawn, |last| last + 1);
            numbers.extend(of_batch);
            tasks.extend(more);
            if has_enough(&ScoredGroup::of(&rollouts.groups, &rollouts.scores), grpo) {
                break;
            }
        }
        self.say_faults(before, &numbers, &rollouts.groups)?;
        self.watch_judge(before, &rollouts)?;
        self.note_pass_rates(&numbers, &rollouts);
        Ok((tasks, rollouts))
    }

    fn roll_out_batch(&mut self, tasks: &[Task]) -> Result<Rollouts, TrainError> {
        let settings = RolloutSettings {
            group_size: self.recipe.grpo.num_generations,
            branching: self.recipe.grpo.branching(),
            first_task: self.tasks_drawn as usize,
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
                self.policy.reference.as_ref().map(|reference| &reference.weights),
                self.engine.page_tensors(),
            );
        }
        Ok(rollouts)
    }

    /// Says when the judge answered nothing, and ends the run when that goes on; the steps before are saved.
    fn watch_judge(&mut self, before: TrainerState, rollouts: &Rollouts) -> Result<(), TrainError> {
        let step = before.global_step;
        let Some(counts) = &rollouts.judge else { return Ok(()) };
        if counts.has_failed() {
            let reason = counts.last_failure.as_deref().unwrap_or_default();
            self.run.say(&format!(
                "the judge answered none of {} questions of step {}: {reason}",
                counts.asked,
                step + 1
            ));
        }
        let watched = self.judge_watch.count(counts, step + 1);
        if watched.is_err() {
            self.run.save_before_end(before, self.saved())?;
        }
        watched
    }

    /// Names the tasks that could not be rolled out, and counts those that cannot be used; they have no score and teach nothing. `numbers` has the number
    /// of each group's task in the data set.
    fn say_faults(&mut self, before: TrainerState, numbers: &[u64], groups: &[Group]) -> Result<(), TrainError> {
        let step = before.global_step;
        let mut unusable = Vec::new();
        for group in groups {
            let Some(end) = group.trajectories.iter().map(|trajectory| &trajectory.end).find(|end| end.is_fault())
            else {
                continue;
            };
            let name = self.dataset.name_of(numbers[group.task]);
            let reason = format!("{name}: {}", end.fault().unwrap_or_default());
            self.run.say(&format!("left out at step {}: {reason}", step + 1));
            if !matches!(end, End::ToolFailed(_)) {
                unusable.push(reason);
            } else if groups.iter().flat_map(|group| &group.trajectories).all(|trajectory| trajectory.end.is_fault()) {
                self.run.save_before_end(before, self.saved())?;
                return Err(TrainError::NoTask { count: groups.len(), step: step + 1, reason });
            }
        }
        let most = self.recipe.data.max_left_out;
        let counted = self.left_out.count(groups.len(), &unusable, self.dataset.len(), step + 1, most);
        if counted.is_err() {
            self.run.save_before_end(before, self.saved())?;
        }
        counted
    }

    fn batch(&mut self, rollouts: &Rollouts, step: u64) -> Batch {
        let is_frozen = self.recipe.model.freeze_vision_tower;
        let features = |image: &_| is_frozen.then(|| self.engine.unmerged_features(image)).flatten();
        let placeholders = self.policy.learner.model().config.placeholders();
        let settings = BatchSettings { grpo: &self.recipe.grpo, features: &features, placeholders: &placeholders };
        let is_in_reward = self.recipe.grpo.kl_in == KlIn::Reward;
        let groups = select(&ScoredGroup::of(&rollouts.groups, &rollouts.scores), settings.grpo);
        let kl = is_in_reward.then(|| self.policy.kl_of_rollouts(&groups, settings)).flatten();
        let mut batch = Batch::new(&groups, kl.as_ref(), settings);
        if let Some(replay) = &mut self.replay {
            batch.replayed = replay.exchange(&mut batch, self.recipe.seed, step);
        }
        self.engine.forget_images();
        self.engine.release_pages();
        batch
    }

    /// Updates on the batch as often as the recipe says. Shows whose memory is where, once, when gradients are there.
    fn learn(&mut self, batch: &mut Batch, step: u64) -> Result<Learned, TrainError> {
        let learning_rates: Vec<f64> = self.updates_of(step).map(|update| self.learning_rate_at(update)).collect();
        let learned = self.policy.learn(batch, &learning_rates, |learner| {
            self.monitor.grad_norms.note(learner);
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
        let updates = self.recipe.grpo.updates_per_step() as u64;
        step * updates..(step + 1) * updates
    }

    fn learning_rate_at(&self, update: u64) -> f64 {
        self.recipe.optimizer.learning_rate_at(update, self.run.steps * self.recipe.grpo.updates_per_step() as u64)
    }
}

/// The curriculum of a run that is `step` steps old.
fn open_curriculum(plan: &Plan, dataset: &Dataset, step: u64) -> Result<Option<Curriculum>, TrainError> {
    let Some(settings) = &plan.recipe.data.curriculum else { return Ok(None) };
    let checkpoint = (step > 0).then(|| plan.run_dir().join(format!("{CHECKPOINT}{step}")));
    Curriculum::open(settings, plan.recipe.seed, dataset, checkpoint.as_deref()).map(Some)
}

/// The rollouts that may be replayed, of a run that is `step` steps old.
fn open_replay(plan: &Plan, step: u64) -> Result<Option<ReplayBuffer>, CheckpointError> {
    let grpo = &plan.recipe.grpo;
    let rollouts = grpo.prompts_per_step * grpo.num_generations;
    match (grpo.refill, step) {
        (Refill::None | Refill::Repeat, _) => Ok(None),
        (Refill::Replay, 0) => Ok(Some(ReplayBuffer::new(rollouts))),
        (Refill::Replay, _) => {
            ReplayBuffer::load(rollouts, &plan.run_dir().join(format!("{CHECKPOINT}{step}"))).map(Some)
        }
    }
}
