//! Why a recipe cannot be run.

use crate::checkpoint::CheckpointError;
use crate::prompt::PromptError;
use crate::rollout::registry::RegistryError;

/// Why a recipe cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A key that has no default.
    #[error("the recipe does not say `{key}`: {remedy}")]
    Missing {
        /// The key with its table, such as `model.path`.
        key: &'static str,
        /// What to write.
        remedy: &'static str,
    },
    /// A value that cannot be.
    #[error("`{key}` is {value}: {remedy}")]
    Value {
        /// The key with its table, or the table of a plug-in.
        key: &'static str,
        /// The value, or what else is wrong about the key.
        value: String,
        /// What it may be.
        remedy: String,
    },
    /// The checkpoint is not there, or its config cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its prompt side.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A plug-in that the recipe names.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// The error of a value that cannot be.
pub(super) fn value<T>(key: &'static str, value: impl Into<String>, remedy: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Value { key, value: value.into(), remedy: remedy.into() })
}
