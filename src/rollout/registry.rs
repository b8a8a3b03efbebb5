//! From the names in a recipe to plug-ins. An unknown name lists the known ones. A new reward is a file and an
//! entry in `rewards`; a new environment a name and an arm here; a new tool a name, and an arm in `tool` and `check_tool`.

use std::sync::Arc;

use thiserror::Error;

use super::environment::{Environment, TokenLimits};
use super::environments::direct::Direct;
use super::environments::think_with_code::ThinkWithCode;
use super::reward::Reward;
use super::rewards::answer::Answer;
use super::rewards::consistency::Consistency;
use super::rewards::format::Format;
use super::rewards::tool_success::ToolSuccess;
use super::tool::{Subject, Tool, ToolFault, ToolSession};
use super::tools::python::{Python, PythonSettings};

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
    /// A weight is no number.
    #[error("the weight of reward {name:?} is {weight}; give a finite number")]
    Weight {
        /// Name of the reward.
        name: String,
        /// The weight as given: infinite or NaN.
        weight: f64,
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

/// The names of the environments.
pub const ENVIRONMENTS: [&str; 2] = ["direct", "think_with_code"];
/// The names of the tools.
pub const TOOLS: [&str; 1] = ["python"];

/// The environment of that name with its own table of a recipe. `tool` is asked for only where the environment has a use for it.
///
/// # Errors
/// When there is none, the table does not read, or the tool cannot be had.
pub fn environment(
    name: &str,
    table: toml::Table,
    tool: impl FnOnce() -> Result<Arc<dyn Tool>, RegistryError>,
) -> Result<Arc<dyn Environment>, RegistryError> {
    match name {
        "direct" => Ok(Arc::new(settings::<Direct>("environment", name, table)?)),
        "think_with_code" => Ok(Arc::new(ThinkWithCode::new(settings("environment", name, table)?, tool()?))),
        _ => Err(RegistryError::unknown("environment", name, &ENVIRONMENTS)),
    }
}

/// The tool of that name with its own table of a recipe, started.
///
/// # Errors
/// When there is none, the table does not read, or the tool does not start.
pub fn tool(name: &str, table: toml::Table) -> Result<Arc<dyn Tool>, RegistryError> {
    match name {
        "python" => Ok(Arc::new(Python::start(&settings("tool", name, table)?)?)),
        _ => Err(RegistryError::unknown("tool", name, &TOOLS)),
    }
}

/// The limits of the environment of that name with its own table, without a tool.
///
/// # Errors
/// As [`environment`].
pub fn limits(name: &str, table: toml::Table) -> Result<TokenLimits, RegistryError> {
    Ok(environment(name, table, || Ok(Arc::new(Absent)))?.limits())
}

/// Checks the tool of that name with its own table, without starting it.
///
/// # Errors
/// When there is none, or the table does not read or holds a value that cannot be.
pub fn check_tool(name: &str, table: toml::Table) -> Result<(), RegistryError> {
    match name {
        "python" => Ok(settings::<PythonSettings>("tool", name, table)?.options().map(drop)?),
        _ => Err(RegistryError::unknown("tool", name, &TOOLS)),
    }
}

/// A placeholder for the tool while nothing is rolled out.
struct Absent;

impl Tool for Absent {
    fn name(&self) -> &'static str {
        "absent"
    }

    fn open(&self, _: &Subject<'_>, _: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Err(ToolFault { tool: self.name(), reason: "it was not started".to_owned() })
    }
}

/// All rewards, in the order of reports.
pub fn rewards() -> Vec<Box<dyn Reward>> {
    vec![Box::new(Format), Box::new(Answer), Box::new(Consistency), Box::new(ToolSuccess)]
}

fn settings<T: serde::de::DeserializeOwned>(
    kind: &'static str,
    name: &str,
    table: toml::Table,
) -> Result<T, RegistryError> {
    let wrong = |source| RegistryError::Settings { kind, name: name.to_owned(), source: Box::new(source) };
    table.try_into().map_err(wrong)
}
