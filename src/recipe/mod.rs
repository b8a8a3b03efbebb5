//! The recipe: what a TOML file may say, typed, with every default. Unknown keys are refused where they stand, with the nearest known
//! key ([`layers`]). Before anything is loaded a recipe becomes a [`plan::Plan`], which refuses contradictions.
//! A plug-in's own table is checked by the plug-in.

pub mod layers;
pub mod optimizer;
pub mod plan;
pub mod plug_in;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::request::Sampling;
use crate::engine::speculation::Speculation;
use crate::prompt::Processor;
use crate::rollout::registry::{DEFAULT_ENVIRONMENT, DEFAULT_TOOL, Named};
use crate::rollout::retry::RetrySettings;
use crate::rollout::reward_set::RewardSettings;
use crate::tasks::needle::{Mixture, Variant};
use optimizer::OptimizerSettings;
use plug_in::{PlugIn, PlugIns};

/// A training run.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What is done.
    pub method: Method,
    /// Name of the run folder.
    pub name: String,
    /// Where run folders are made.
    pub output_dir: OutputDir,
    /// Seed of data order, sampling and random weights.
    pub seed: u64,
    /// The policy's checkpoint, and what of it is trained.
    pub model: ModelSettings,
    /// What is learned from.
    pub data: DataSettings,
    /// Optimizer and learning rate.
    pub optimizer: OptimizerSettings,
    /// Steps, packing, saving.
    pub training: TrainingSettings,
    /// Only for `method = "sft"`.
    pub sft: SftSettings,
    /// Only for `method = "grpo"`.
    pub grpo: GrpoSettings,
    /// How rollouts sample tokens.
    pub sampling: Sampling,
    /// The environment of rollouts: its `name` in the registry, and its own keys.
    pub environment: PlugIn,
    /// Rewards and their weights.
    pub reward: RewardSettings,
    /// The tool that the environment calls: its `name`, and its own keys. `[[tool]]` for each of several.
    pub tool: PlugIns,
    /// Held-out evaluation during and around training.
    pub evaluation: EvaluationSettings,
    /// Pages and scheduling of the generating side.
    pub engine: EngineSettings,
}

/// `output_dir`, `runs` unless said otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct OutputDir(pub PathBuf);

impl Default for OutputDir {
    fn default() -> OutputDir {
        OutputDir(PathBuf::from("runs"))
    }
}

/// What a run does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Supervised fine-tuning; pretraining too.
    #[default]
    Sft,
    /// Group-relative policy optimisation with adaptive temperature.
    Grpo,
}

/// The policy and what of it is trained.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Checkpoint folder, or `org/name` in the local Hugging Face cache.
    pub path: String,
    /// Start from random weights of its config instead of its weights.
    pub random_weights: bool,
    /// The vision tower keeps its weights.
    pub freeze_vision_tower: bool,
    /// The patch merger keeps its weights.
    pub freeze_merger: bool,
    /// Keep only each layer's input for backward and compute the rest again: less memory, one more forward.
    pub activation_recompute: bool,
    /// Smallest area of an image as the model sees it, in pixels; the checkpoint's where absent.
    pub min_pixels: Option<u64>,
    /// Largest area of an image as the model sees it, in pixels; the checkpoint's where absent.
    pub max_pixels: Option<u64>,
}

impl Default for ModelSettings {
    fn default() -> ModelSettings {
        ModelSettings {
            path: String::new(),
            random_weights: false,
            freeze_vision_tower: true,
            freeze_merger: true,
            activation_recompute: false,
            min_pixels: None,
            max_pixels: None,
        }
    }
}

impl ModelSettings {
    /// The processor with these image sizes.
    pub fn sized(&self, processor: Processor) -> Processor {
        let processor = self.min_pixels.into_iter().fold(processor, Processor::with_min_pixels);
        self.max_pixels.into_iter().fold(processor, Processor::with_max_pixels)
    }
}

/// Where examples come from: exactly one of `needle` and `files`.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// The built-in task, drawn as it is needed.
    pub needle: Option<NeedleSettings>,
    /// JSONL files in Thyme's RL form (GRPO) or SFT form (SFT), read one behind the other.
    pub files: Vec<PathBuf>,
    /// Draw the files' examples in a new random order each epoch.
    pub shuffle: bool,
    /// Share of the examples drawn so far, counted as at least 200, that may be left out because they cannot be used (an unreadable
    /// picture, too many tokens) before the run stops. It stops anyway where none can be used.
    pub max_left_out: f64,
}

impl Default for DataSettings {
    fn default() -> DataSettings {
        DataSettings { needle: None, files: Vec::new(), shuffle: true, max_left_out: 0.1 }
    }
}

/// The built-in task.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeedleSettings {
    /// A harder variant, each made for one environment's tools: `small`, `compare`, `nested`, `chart`, `frames`, `dark`; the plain task where absent.
    /// Its demonstrations are scripts, which `[environment]` answers.
    pub variant: Option<Variant>,
    /// Seed of the pictures; the run's seed where absent.
    pub seed: Option<u64>,
    /// For SFT: the shares of the kinds of samples. A variant has `read`, `look` and `guess`.
    pub mixture: Option<Mixture>,
}

/// Steps, packing, saving.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingSettings {
    /// Steps of the run at most: batches of SFT, rollout batches of GRPO. 100 where neither this nor `num_train_epochs` is given.
    pub max_steps: Option<u64>,
    /// Passes over the data, parts of one too; the last step of the run may begin another pass to be whole. With `max_steps` beside it,
    /// the run ends with whichever comes first. The built-in task has no end, and so no epochs.
    pub num_train_epochs: Option<f64>,
    /// Examples a step of SFT learns from.
    pub batch_size: usize,
    /// Tokens of one forward and backward; a step is cut into as many as it needs.
    pub micro_batch_tokens: usize,
    /// Whether checkpoints are saved.
    pub save_strategy: SaveStrategy,
    /// Save a checkpoint every so many steps; 0 saves at the end only.
    pub save_steps: u64,
    /// Checkpoints to keep; 0 keeps all.
    pub save_total_limit: usize,
    /// Write metrics every so many steps, and at the last: their averages since the line before.
    pub logging_steps: u64,
    /// Rollouts of each step of GRPO that are written to `samples/` as pages, one of each group first.
    pub log_completions: usize,
    /// Updates in a row whose gradient may be not finite (they are skipped) before the run stops.
    pub max_skipped_updates: u64,
}

impl Default for TrainingSettings {
    fn default() -> TrainingSettings {
        TrainingSettings {
            max_steps: None,
            num_train_epochs: None,
            batch_size: 32,
            micro_batch_tokens: 4096,
            save_strategy: SaveStrategy::Steps,
            save_steps: 50,
            save_total_limit: 2,
            logging_steps: 1,
            log_completions: 0,
            max_skipped_updates: 3,
        }
    }
}

/// Whether a run saves checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveStrategy {
    /// Every `save_steps`, at the end, and when the user stops the run.
    #[default]
    Steps,
    /// Never: the run is for its numbers.
    No,
}

/// What supervised fine-tuning learns.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSettings {
    /// Which of the model's turns are learned.
    pub train_turns: TrainTurns,
}

/// Which turns of a demonstration are learned; a turn ends with an observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainTurns {
    /// All of them.
    #[default]
    All,
    /// What stands behind the last observation.
    Last,
    /// What stands behind the second-to-last observation: the last code and the final text (Thyme's SFT).
    LastTwo,
}

/// Group-relative policy optimisation (Shao et al. 2024) and its variants.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoSettings {
    /// Tasks a step rolls out.
    pub prompts_per_step: usize,
    /// Rollouts of each task: the group that an advantage is relative to.
    pub num_generations: usize,
    /// Updates made from one batch of rollouts.
    pub num_iterations: usize,
    /// Weight of the KL divergence (k3 estimator) from the starting weights; 0 keeps no reference.
    pub beta: f64,
    /// The probability ratio is clipped below `1 − epsilon`.
    pub epsilon: f64,
    /// And above `1 + epsilon_high`; `epsilon` where absent.
    pub epsilon_high: Option<f64>,
    /// How token losses are averaged.
    pub loss_type: LossType,
    /// Which rollouts and tokens they are averaged over.
    pub loss_denominator: LossDenominator,
    /// Divide advantages by the group's standard deviation.
    pub scale_rewards: bool,
    /// Leave groups whose rewards are all equal out of the policy gradient, where they add nothing; without a KL divergence they need
    /// not be computed.
    pub filter_zero_advantage: bool,
    /// Leave rollouts that ran out of tokens out of the loss; they still count among the sequences that were sampled.
    pub mask_truncated_completions: bool,
    /// Leave rollouts that ran out of turns or calls before they answered out of the loss, as Mini-o3 does, so that long thinking is not punished.
    pub mask_over_turn_completions: bool,
    /// Learn from tokens sampled at temperature 0 too (code, under adaptive temperature).
    pub train_zero_temperature_tokens: bool,
    /// Hold tokens sampled at temperature 0 near the reference, at temperature 1, though they have no policy gradient. They then count
    /// among the tokens of the loss.
    pub kl_zero_temperature_tokens: bool,
    /// Which log-probability ratio and KL are taken of: `temperature`, of the distribution over the tokens that can be sampled, or `raw`, over
    /// all, placeholders of images and videos too.
    pub logprob: LogprobKind,
}

impl Default for GrpoSettings {
    fn default() -> GrpoSettings {
        GrpoSettings {
            prompts_per_step: 12,
            num_generations: 8,
            num_iterations: 1,
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            loss_type: LossType::Grpo,
            loss_denominator: LossDenominator::Sampled,
            scale_rewards: true,
            filter_zero_advantage: true,
            mask_truncated_completions: true,
            mask_over_turn_completions: false,
            train_zero_temperature_tokens: false,
            kl_zero_temperature_tokens: false,
            logprob: LogprobKind::Temperature,
        }
    }
}

/// How token losses become one number, always over the whole batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over each sequence's tokens, then over sequences (DeepSeekMath, Shao et al. 2024).
    Grpo,
    /// Mean over all tokens of the batch (DAPO, Yu et al. 2025).
    Dapo,
    /// TRL's mean over the tokens of what one device computes at a time. Here that is the whole batch, so it is `dapo`.
    Bnpo,
    /// Sum over tokens by the token limit and the sequences: no length bias (Dr. GRPO, Liu et al. 2025).
    DrGrpo,
}

/// Which rollouts and tokens a loss is averaged over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossDenominator {
    /// As in TRL, the batch that was sampled. Sequences are all rollouts with a token of the model's own. Tokens are those that are learned
    /// in rollouts that are not masked as truncated: groups of equal rewards and unscored rollouts count, and have a KL divergence.
    Sampled,
    /// What the filters keep: rollouts with an advantage, of groups that are not left out, not masked. Nothing else has a KL divergence.
    Kept,
}

/// Which log-probability a loss is a function of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogprobKind {
    /// At temperature 1 over the full vocabulary.
    Raw,
    /// At the temperature that the token was sampled at.
    Temperature,
}

/// How a run is measured on tasks that it does not learn from.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Held-out tasks, answered greedily; 0 evaluates nothing.
    pub tasks: usize,
    /// Evaluate every so many steps, besides before and after; 0 only then.
    pub steps: u64,
    /// Files of held-out tasks. Where empty, `[data.needle]` has the built-in task's held-out pictures, and other data none.
    pub files: Vec<PathBuf>,
    /// What becomes of tasks that end without an answer.
    pub retry: RetrySettings,
}

impl Default for EvaluationSettings {
    fn default() -> EvaluationSettings {
        EvaluationSettings { tasks: 256, steps: 0, files: Vec::new(), retry: RetrySettings::default() }
    }
}

/// Pages and scheduling of the generating side.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Bytes of keys and values; 0 takes what the rollouts of one step need at most.
    pub kv_cache_bytes: u64,
    /// Prompt and observation tokens of one forward.
    pub prefill_chunk_tokens: usize,
    /// Sequences decoded together at most.
    pub max_num_seqs: usize,
    /// Whether sequences draft what they say next from what they said before. What is sampled does not depend on it.
    pub speculation: Speculation,
}

impl Default for EngineSettings {
    fn default() -> EngineSettings {
        let speculation = Speculation::default();
        EngineSettings { kv_cache_bytes: 0, prefill_chunk_tokens: 2048, max_num_seqs: 256, speculation }
    }
}

impl Recipe {
    /// The environment, and the tools where the recipe names some.
    pub fn environment_and_tools(&self) -> (Named, Vec<Named>) {
        (self.environment.named(DEFAULT_ENVIRONMENT), self.tool.named(DEFAULT_TOOL))
    }

    /// Steps of a run over so many examples; without a number they have no end.
    pub fn steps(&self, examples: Option<usize>) -> u64 {
        let examples_per_step = match self.method {
            Method::Sft => self.training.batch_size,
            Method::Grpo => self.grpo.prompts_per_step,
        };
        let epochs = self.training.num_train_epochs.zip(examples);
        let of_epochs = epochs
            .map(|(epochs, examples)| (epochs * examples as f64 / examples_per_step as f64).ceil().max(1.0) as u64);
        let most = self.training.max_steps.unwrap_or(u64::MAX);
        of_epochs.map_or(most, |steps| steps.min(most))
    }

    /// The recipe as TOML, defaults written out.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe's types are TOML's")
    }
}
