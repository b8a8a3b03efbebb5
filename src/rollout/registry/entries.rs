//! What the registry knows of a plug-in: its name, how its settings are checked, how it is built; and why it may not be.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::error::RegistryError;
use crate::rollout::environment::{Environment, TokenLimits};
use crate::rollout::judge::Judge;
use crate::rollout::reward::Reward;
use crate::rollout::tool::Tool;
use crate::rollout::tool_set::ToolSet;

/// The environment of recipes that name none.
pub const DEFAULT_ENVIRONMENT: &str = "think_with_code";
/// The tool of a recipe's `[tool]` that gives no name.
pub const DEFAULT_TOOL: &str = "python";

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
    /// Whether it is scored where a recipe neither names it nor weighs it, for its figure alone.
    pub scored_without_weight: bool,
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
