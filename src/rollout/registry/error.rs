//! Why a plug-in cannot be made.

use thiserror::Error;

use crate::rollout::tool::ToolFault;

/// A plug-in that cannot be made.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No plug-in has this name.
    #[error("there is no {kind} {name:?}; the known ones are: {known}")]
    Unknown {
        /// Environment, tool or reward.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Its settings do not read.
    #[error("the settings of {kind} {name:?} are wrong: {source}")]
    Settings {
        /// Environment, tool or reward.
        kind: &'static str,
        /// Name of the environment, tool or reward.
        name: String,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// An environment cannot use the tools that are given to it.
    #[error("the environment {environment:?} calls {usable}, and the tools are {given}; {remedy}")]
    Tools {
        /// The environment's name.
        environment: String,
        /// How many tools it calls, in words.
        usable: String,
        /// The tools' names.
        given: String,
        /// What to write.
        remedy: &'static str,
    },
    /// A weight is no number.
    #[error("the weight of reward {name:?} is {weight}; give a finite number")]
    Weight {
        /// Name of the reward.
        name: String,
        /// The weight as given: infinite or NaN.
        weight: f64,
    },
    /// The judge of the rewards cannot be.
    #[error("reward.judge: {0}")]
    Judge(String),
    /// A reward cannot be used.
    #[error("the reward {name:?} cannot be used: {reason}")]
    Reward {
        /// Name of the reward.
        name: String,
        /// Why, and the remedy.
        reason: String,
    },
    /// A tool does not start.
    #[error(transparent)]
    Tool(#[from] ToolFault),
}

impl RegistryError {
    /// The error for a name that is not among `known`.
    pub fn unknown(kind: &'static str, name: &str, known: &[&str]) -> Self {
        RegistryError::Unknown { kind, name: name.to_owned(), known: known.join(", ") }
    }
}
