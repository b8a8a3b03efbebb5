//! What the registry knows of a plug-in: its name, how its settings are checked, how it is built; and why it may not be.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::rollout::environment::{Environment, TokenLimits};
use crate::rollout::judge::Judge;
use crate::rollout::reward::Reward;
use crate::rollout::tool::{Tool, ToolFault};
use crate::rollout::tool_set::ToolSet;

/// The environment of recipes that name none.
pub const DEFAULT_ENVIRONMENT: &str = "think_with_code";
/// The tool of a recipe's `[tool]` that gives no name.
pub const DEFAULT_TOOL: &str = "python";

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

/// A plug-in as a recipe names it: the name, and the keys of its own.
pub type Named = (String, toml::Table);

/// An environment that recipes can name.
#[derive(Clone, Copy)]
pub struct EnvironmentEntry {
    /// The name in recipes.
    pub name: &'static str,
    /// The tools of recipes that name none.
    pub default_tools: &'static [&'static str],
    /// Tools that it can call at most. An environment that calls none has a recipe's tools checked and not started.
    pub tools_max: usize,
    /// The limits of tokens of its own table; refuses a table that does not read. Starts nothing.
    pub check: fn(toml::Table) -> Result<TokenLimits, RegistryError>,
    /// Makes the environment of its own table, and of the tools that a recipe names, at most `tools_max`, or else its default ones. The
    /// commands set `max_turn_tokens` and `max_total_tokens` in the table, so its settings must have both.
    pub build: fn(toml::Table, ToolSet) -> Result<Arc<dyn Environment>, RegistryError>,
}

/// A tool that recipes can name.
#[derive(Clone, Copy)]
pub struct ToolEntry {
    /// The name in recipes, and that of the tool which `build` starts.
    pub name: &'static str,
    /// The only environment that means this tool by the name, where another tool has the name elsewhere.
    pub only_in: Option<&'static str>,
    /// What it needs beside this program, in words; `-` for nothing.
    pub needs: &'static str,
    /// Refuses a table that does not read or holds a value that cannot be; starts nothing.
    pub check: fn(toml::Table) -> Result<(), RegistryError>,
    /// Starts the tool of its own table.
    pub build: fn(toml::Table) -> Result<Arc<dyn Tool>, RegistryError>,
}

/// A reward that recipes can weigh.
#[derive(Clone, Copy)]
pub struct RewardEntry {
    /// The name in recipes and logs.
    pub name: &'static str,
    /// The weight in recipes that give it none.
    pub default_weight: f64,
    /// Makes the reward.
    pub build: BuildReward,
}

/// Makes a reward of its own table, and of the judge, if the recipe has one. Asks the judge nothing.
pub type BuildReward = fn(toml::Table, Option<Arc<dyn Judge>>) -> Result<Box<dyn Reward>, RegistryError>;

/// The settings of a plug-in that has none: any key is refused.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoSettings {}

/// The typed settings of a plug-in's own table.
///
/// # Errors
/// When it has an unknown key or a value of another type.
pub fn settings<T: DeserializeOwned>(kind: &'static str, name: &str, table: toml::Table) -> Result<T, RegistryError> {
    let wrong = |source| RegistryError::Settings { kind, name: name.to_owned(), source: Box::new(source) };
    table.try_into().map_err(wrong)
}
