//! Supervised fine-tuning: maximum likelihood of the assistant's own words, over packs of demonstrations.

use std::sync::Arc;
use std::time::Duration;

use image::RgbImage;

use super::dataset::{Dataset, DatasetError};
use super::demonstration::{self, Demonstration};
use super::example_loop::{Accumulated, ExampleLoop};
use super::learner::Learner;
use super::loss_mask::LossMask;
use super::max_length::truncate;
use super::sample::{Layout, Pack, Sample, runs_by_tokens};
use super::{Session, TrainError};
use crate::prompt::{ImageSource, Processor, PromptError};
use crate::recipe::plan::Plan;
use crate::recipe::{LogprobKind, MaxLengthAction};
use crate::rollout::environment::Environment;
use crate::rollout::script::play;
use crate::rollout::task::Task;
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::TurnKind;
use crate::tasks::Example;
use crate::tasks::needle::variants::Lesson;

/// Trains to the plan's last step, or until the user stops it.
pub fn train(plan: &Plan, session: &Session) -> Result<(), TrainError> {
    let recipe = &plan.recipe;
    let processor = plan.processor()?;
    let dataset = Dataset::open(&recipe.data, recipe.method, recipe.seed)?;
    let demonstrations = Demonstrations::new(&dataset, &processor, plan)?;
    let (layout, budget) = (Layout::of(&processor), recipe.training.micro_batch_tokens);
    let draw = |number| demonstrations.sample(number);
    ExampleLoop::open(plan, session, &processor, dataset.len())?.run(draw, |learner, _, samples| Accumulated {
        loss: accumulate(learner, samples, layout, budget),
        tokens: samples.iter().map(Sample::tokens).sum(),
        trained_tokens: samples.iter().map(|sample| sample.targets().count()).sum(),
        reference: Duration::ZERO,
        metrics: Vec::new(),
    })
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
