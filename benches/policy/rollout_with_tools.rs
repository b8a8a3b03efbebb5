//! The rollout of a recipe as training runs it: the model's code runs in the sandbox, and what comes of it returns into its message.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use thyme_engine::engine::Engine;
use thyme_engine::eval::Report;
use thyme_engine::prompt::Prompt;
use thyme_engine::recipe::layers;
use thyme_engine::recipe::plan::Plan;
use thyme_engine::rollout::engine_generator::EngineGenerator;
use thyme_engine::rollout::environment::Environment;
use thyme_engine::rollout::reward_set::RewardSet;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::rollout::trajectory::{Call, Trajectory};
use thyme_engine::rollout::{Group, RolloutSettings, run};
use thyme_engine::train::sizes::engine_limits;

use super::rollout::Policy;

/// A recipe ready to roll out: its tool is started.
pub struct RolloutWithTools {
    engine: Engine,
    environment: Arc<dyn Environment>,
    rewards: RewardSet,
    settings: RolloutSettings,
    tasks: Vec<Task>,
    tasks_per_step: usize,
}

impl RolloutWithTools {
    /// The recipe's engine, environment and sampling, for a policy and tasks in place of its own. Prompts are prepared here.
    pub fn open(recipe: &Path, policy: &Policy, tasks: &[Task]) -> RolloutWithTools {
        let ready = |(task, prompt): (&Task, Prompt)| Task { prompt: TaskPrompt::Tokens(prompt), ..task.clone() };
        let recipe = layers::load(recipe, &[]).expect("a recipe");
        let plan = Plan::new(recipe, &Default::default()).expect("a recipe that can be run");
        let recipe = &plan.recipe;
        let (environment, tools) = recipe.environment_and_tools();
        let environment = plan.registry.environment(environment, &tools).expect("an environment with its tool");
        RolloutWithTools {
            engine: Engine::new(
                policy.model.clone(),
                policy.processor.clone(),
                engine_limits(&plan, policy.model.backend.activation_bytes()),
            ),
            environment,
            rewards: RewardSet::new(&recipe.reward, &plan.registry).expect("rewards"),
            settings: RolloutSettings {
                group_size: recipe.grpo.num_generations,
                seed: recipe.seed,
                sampling: recipe.sampling.clone(),
                ..RolloutSettings::default()
            },
            tasks: tasks.iter().zip(policy.prompts(tasks)).map(ready).collect(),
            tasks_per_step: recipe.grpo.prompts_per_step,
        }
    }

    /// The groups of all tasks, a step's tasks after the other.
    pub fn run(&mut self, policy: &Policy) -> Vec<Group> {
        let mut groups = Vec::new();
        for (step, tasks) in self.tasks.chunks(self.tasks_per_step).enumerate() {
            self.engine.forget_images();
            self.settings.first_task = step * self.tasks_per_step;
            let mut generator = EngineGenerator { engine: &mut self.engine, weights: &policy.weights };
            let rolled = run(&mut generator, &policy.processor, &*self.environment, tasks, &self.settings);
            let rolled = rolled.expect("the engine has room for the recipe's groups").into_iter();
            groups.extend(rolled.map(|group| Group { task: group.task + self.settings.first_task, ..group }));
        }
        groups
    }

    /// What shows that two rollouts did the same work.
    pub fn counts(&self, groups: &[Group]) -> Map<String, Value> {
        let trajectories = || groups.iter().flat_map(|group| &group.trajectories);
        let calls = || trajectories().flat_map(|trajectory| &trajectory.calls);
        let scores = self.rewards.score_groups(groups, &self.tasks);
        let has_run = |call: &&Call| call.output.status != CallStatus::OverLimit;
        let counts: [(&str, Value); 4] = [
            ("sequences", trajectories().count().into()),
            ("code_runs", calls().filter(has_run).count().into()),
            ("images", calls().map(|call| call.images_shown).sum::<usize>().into()),
            ("accuracy", Report::new(trajectories().zip(scores.iter().flatten())).accuracy.into()),
        ];
        counts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Tokens that the model sampled.
pub fn sampled_tokens(groups: &[Group]) -> usize {
    groups.iter().flat_map(|group| &group.trajectories).map(Trajectory::own_tokens).sum()
}
