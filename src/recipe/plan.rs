//! From recipe to plan: paths opened, contradictions refused, memory added up; nothing large is loaded yet.

use std::path::PathBuf;

use super::{Method, Recipe};
use crate::checkpoint::{CheckpointError, folder};
use crate::model::config::{Config, ConfigError};
use crate::prompt::{Processor, PromptError};

/// A recipe that can be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As the user wrote it, defaults filled.
    pub recipe: Recipe,
    /// The starting checkpoint's folder.
    pub model_dir: PathBuf,
    /// Its config.
    pub config: Config,
}

/// Why a recipe cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A key that has no default.
    #[error("the recipe does not say `{key}`: {remedy}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        remedy: &'static str,
    },
    /// A value that cannot be.
    #[error("`{key}` is {value}: {remedy}")]
    Value {
        /// The key.
        key: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        remedy: &'static str,
    },
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its prompt side.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

impl Plan {
    /// Checks a recipe and finds its checkpoint.
    pub fn new(recipe: Recipe) -> Result<Plan, PlanError> {
        check(&recipe)?;
        let model_dir = folder::resolve(&recipe.model.path)?;
        let config = Config::open(&model_dir)?;
        Ok(Plan { recipe, model_dir, config })
    }

    /// The run's folder.
    pub fn run_dir(&self) -> PathBuf {
        self.recipe.output_dir.0.join(&self.recipe.name)
    }

    /// The checkpoint's processor, with the recipe's image sizes.
    pub fn processor(&self) -> Result<Processor, PromptError> {
        let mut processor = Processor::open(&self.model_dir)?;
        if let Some(pixels) = self.recipe.model.min_pixels {
            processor = processor.with_min_pixels(pixels);
        }
        if let Some(pixels) = self.recipe.model.max_pixels {
            processor = processor.with_max_pixels(pixels);
        }
        Ok(processor)
    }
}

fn check(recipe: &Recipe) -> Result<(), PlanError> {
    let missing = |key, remedy| Err(PlanError::Missing { key, remedy });
    let value = |key, value: String, remedy| Err(PlanError::Value { key, value, remedy });
    if recipe.model.path.is_empty() {
        return missing("model.path", "give a checkpoint folder, or org/name in the local Hugging Face cache");
    }
    if recipe.name.is_empty() || recipe.name.contains(['/', '\\']) {
        return value("name", format!("{:?}", recipe.name), "give the run folder a plain name");
    }
    match (&recipe.data.needle, recipe.data.files.is_empty()) {
        (None, true) => return missing("data", "write [data.needle] for the built-in task, or data.files = [...]"),
        (Some(_), false) => {
            return value("data.files", "given beside [data.needle]".to_owned(), "keep one of the two");
        }
        _ => {}
    }
    let positive = [
        ("training.max_steps", recipe.training.max_steps as usize),
        ("training.batch_size", recipe.training.batch_size),
        ("training.micro_batch_tokens", recipe.training.micro_batch_tokens),
        ("training.logging_steps", recipe.training.logging_steps as usize),
        ("training.max_skipped_updates", recipe.training.max_skipped_updates as usize),
        ("grpo.prompts_per_step", recipe.grpo.prompts_per_step),
        ("grpo.num_iterations", recipe.grpo.num_iterations),
        ("engine.max_num_seqs", recipe.engine.max_num_seqs),
        ("engine.prefill_chunk_tokens", recipe.engine.prefill_chunk_tokens),
    ];
    if let Some((key, _)) = positive.into_iter().find(|(_, v)| *v == 0) {
        return value(key, "0".to_owned(), "it must be at least 1");
    }
    if recipe.method == Method::Grpo && recipe.grpo.num_generations < 2 {
        let given = recipe.grpo.num_generations.to_string();
        return value("grpo.num_generations", given, "an advantage is relative to a group: give at least 2");
    }
    Ok(())
}
