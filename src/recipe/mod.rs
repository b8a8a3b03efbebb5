//! The recipe: what a TOML file may say, typed, with every default. Unknown keys are refused where they stand, with the nearest known
//! key ([`layers`]). Before anything is loaded a recipe becomes a [`plan::Plan`], which refuses contradictions.
//! A plug-in's own table is checked by the plug-in.

mod curriculum;
mod dpo;
mod grpo;
pub mod layers;
pub mod optimizer;
pub mod plan;
pub mod plug_in;
mod sft;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::request::Sampling;
use crate::engine::speculation::Speculation;
use crate::prompt::Processor;
use crate::rollout::registry::{DEFAULT_ENVIRONMENT, DEFAULT_TOOL, Named};
use crate::rollout::retry::RetrySettings;
use crate::rollout::reward_set::RewardSettings;
use crate::tasks::needle::{Mixture, Variant};
pub use curriculum::CurriculumSettings;
pub use dpo::{DpoSettings, PreferenceLoss};
pub use grpo::{
    AdvantageEstimator, GrpoSettings, KlEstimator, KlIn, LogprobKind, LossDenominator, LossType, Refill, ScaleRewards,
};
use optimizer::OptimizerSettings;
use plug_in::{PlugIn, PlugIns};
pub use sft::{MaxLengthAction, SftSettings, TrainTokens, TrainTurns};

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
    /// Only for `method = "dpo"`.
    pub dpo: DpoSettings,
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
    /// Direct preference optimisation.
    Dpo,
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
    /// Further arguments of the chat template, such as `enable_thinking` of Qwen3's (TRL's key).
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
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
            chat_template_kwargs: Map::new(),
        }
    }
}

impl ModelSettings {
    /// The processor with these image sizes and arguments of the chat template.
    pub fn configured(&self, processor: Processor) -> Processor {
        let processor = self.min_pixels.into_iter().fold(processor, Processor::with_min_pixels);
        let processor = self.max_pixels.into_iter().fold(processor, Processor::with_max_pixels);
        processor.with_template_variables(self.chat_template_kwargs.clone())
    }
}

/// Where examples come from: exactly one of `needle`, `files` and `sources`.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// The built-in task, drawn as it is needed.
    pub needle: Option<NeedleSettings>,
    /// JSONL files in Thyme's RL form (GRPO), in Thyme's SFT form (SFT), or in TRL's form of preferences (DPO), read one behind the other.
    pub files: Vec<PathBuf>,
    /// Such files in several sources, `[[data.sources]]`, each with a weight.
    pub sources: Vec<DataSource>,
    /// Draw the files' examples in a new random order each epoch.
    pub shuffle: bool,
    /// Share of the examples drawn so far, counted as at least 200, that may be left out because they cannot be used (an unreadable
    /// picture, too many tokens) before the run stops. It stops anyway where none can be used.
    pub max_left_out: f64,
    /// For GRPO on `files`: draw rows by their measured difficulty; all alike where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<CurriculumSettings>,
}

impl Default for DataSettings {
    fn default() -> DataSettings {
        DataSettings {
            needle: None,
            files: Vec::new(),
            sources: Vec::new(),
            shuffle: true,
            max_left_out: 0.1,
            curriculum: None,
        }
    }
}

impl DataSettings {
    /// The files of all sources.
    pub fn all_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().chain(self.sources.iter().flat_map(|source| &source.files))
    }
}

/// Files that are drawn as often as their weight says; each source has epochs of its own.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSource {
    /// JSONL files of the method's form, read one behind the other.
    pub files: Vec<PathBuf>,
    /// How often examples of these files are drawn, beside the weights of the other sources.
    pub weight: f64,
}

impl Default for DataSource {
    fn default() -> DataSource {
        DataSource { files: Vec::new(), weight: 1.0 }
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
    /// Steps of the run at most: batches of SFT or DPO, rollout batches of GRPO. 100 where neither this nor `num_train_epochs` is given.
    pub max_steps: Option<u64>,
    /// Passes over the data, parts of one too; the last step of the run may begin another pass to be whole. With `max_steps` beside it,
    /// the run ends with whichever comes first. The built-in task has no end, and so no epochs.
    pub num_train_epochs: Option<f64>,
    /// Examples that a step of SFT learns from, pairs that a step of DPO does.
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
    /// Log the norm of the gradient of each group of parameters too: tower, merger, embeddings, attention, mlp, norms, head.
    pub log_grad_norms: bool,
    /// Warn when the mean KL divergence of GRPO is above so many nats a token; 0 never warns. The default is the 6 nats over 24 tokens that
    /// Ziegler et al. (2019) steer to.
    pub warn_kl: f64,
    /// Where metrics go besides `metrics.jsonl`.
    pub report_to: Vec<ReportTo>,
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
            log_grad_norms: false,
            warn_kl: 0.25,
            report_to: vec![ReportTo::Tensorboard],
        }
    }
}

/// A place that metrics go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportTo {
    /// An event file in the run's folder.
    Tensorboard,
    /// Weights & Biases, by its own Python client.
    Wandb,
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
            Method::Sft | Method::Dpo => self.training.batch_size,
            Method::Grpo => self.grpo.tasks_per_batch(),
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
