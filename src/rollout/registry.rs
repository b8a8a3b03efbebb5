//! From the names in a recipe to plug-ins. An unknown name lists the known ones. A new environment, tool or reward is a file and an entry in the
//! table of its kind here; which of them a recipe without a name has is said here alone.

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

/// The environment of recipes that name none.
pub const DEFAULT_ENVIRONMENT: &str = "think_with_code";
/// The tool of recipes that name none.
pub const DEFAULT_TOOL: &str = "python";

/// Makes an environment of its own table of a recipe, and of a tool, which it asks for only where it has a use for it.
type BuildEnvironment = fn(toml::Table, GetTool<'_>) -> Result<Arc<dyn Environment>, RegistryError>;
/// Starts the tool of an environment.
type GetTool<'a> = &'a dyn Fn() -> Result<Arc<dyn Tool>, RegistryError>;

/// An environment that recipes can name.
struct EnvironmentEntry {
    name: &'static str,
    build: BuildEnvironment,
}

/// A tool that recipes can name.
struct ToolEntry {
    name: &'static str,
    /// Refuses a table that does not read or holds a value that cannot be; starts nothing.
    check: fn(toml::Table) -> Result<(), RegistryError>,
    /// Starts the tool.
    build: fn(toml::Table) -> Result<Arc<dyn Tool>, RegistryError>,
}

const ENVIRONMENTS: [EnvironmentEntry; 2] = [
    EnvironmentEntry {
        name: "direct",
        build: |table, _| Ok(Arc::new(settings::<Direct>("environment", "direct", table)?)),
    },
    EnvironmentEntry {
        name: "think_with_code",
        build: |table, tool| {
            let settings = settings("environment", "think_with_code", table)?;
            Ok(Arc::new(ThinkWithCode::new(settings, tool()?)))
        },
    },
];

const TOOLS: [ToolEntry; 1] = [ToolEntry {
    name: "python",
    check: |table| Ok(settings::<PythonSettings>("tool", "python", table)?.options().map(drop)?),
    build: |table| Ok(Arc::new(Python::start(&settings("tool", "python", table)?)?)),
}];

/// The names of the environments.
pub fn environments() -> Vec<&'static str> {
    ENVIRONMENTS.iter().map(|entry| entry.name).collect()
}

/// The environment of that name with its own table of a recipe. `tool` is called only where the environment has a use for it.
///
/// # Errors
/// When there is none, the table does not read, or the tool cannot be had.
pub fn environment(name: &str, table: toml::Table, tool: GetTool<'_>) -> Result<Arc<dyn Environment>, RegistryError> {
    let entry = ENVIRONMENTS.iter().find(|entry| entry.name == name);
    let entry = entry.ok_or_else(|| RegistryError::unknown("environment", name, &environments()))?;
    (entry.build)(table, tool)
}

/// The tool of that name with its own table of a recipe, started.
///
/// # Errors
/// When there is none, the table does not read, or the tool does not start.
pub fn tool(name: &str, table: toml::Table) -> Result<Arc<dyn Tool>, RegistryError> {
    (tool_entry(name)?.build)(table)
}

/// Checks the tool of that name with its own table, without starting it.
///
/// # Errors
/// When there is none, or the table does not read or holds a value that cannot be.
pub fn check_tool(name: &str, table: toml::Table) -> Result<(), RegistryError> {
    (tool_entry(name)?.check)(table)
}

fn tool_entry(name: &str) -> Result<&'static ToolEntry, RegistryError> {
    let known = || TOOLS.iter().map(|entry| entry.name).collect::<Vec<_>>();
    TOOLS.iter().find(|entry| entry.name == name).ok_or_else(|| RegistryError::unknown("tool", name, &known()))
}

/// The limits of the environment of that name with its own table, without a tool.
///
/// # Errors
/// As [`environment`].
pub fn limits(name: &str, table: toml::Table) -> Result<TokenLimits, RegistryError> {
    Ok(environment(name, table, &|| Ok(Arc::new(Absent)))?.limits())
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
