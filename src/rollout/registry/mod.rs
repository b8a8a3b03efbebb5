//! From the names in a recipe to plug-ins. A [`Registry`] is a table for each kind, of names, how settings are checked
//! and plug-ins built, and defaults. [`Registry::default`]
//! has those that ship; a program of one's own adds its entries and hands the registry to [`crate::cli::main`]. An unknown name lists the known
//! ones.

mod entries;
mod error;
mod environments;
mod rewards;
mod tools;

use std::fmt;
use std::sync::Arc;

use super::environment::{Environment, TokenLimits};
use super::python_file::is_python_file;
use super::tool::Tool;
use super::tool_set::ToolSet;
use super::tools::python_file::PythonFileTool;
pub use entries::{
    BuildReward, DEFAULT_ENVIRONMENT, DEFAULT_TOOL, EnvironmentEntry, Named, RewardEntry, ToolEntry, settings,
};
use environments::ENVIRONMENTS;
pub use error::RegistryError;
use rewards::REWARDS;
use tools::TOOLS;

/// The environments, tools and rewards that recipes can name.
#[derive(Clone)]
pub struct Registry {
    environments: Vec<EnvironmentEntry>,
    tools: Vec<ToolEntry>,
    rewards: Vec<RewardEntry>,
}

impl Default for Registry {
    /// The environments, tools and rewards that ship.
    fn default() -> Self {
        Self { environments: ENVIRONMENTS.to_vec(), tools: TOOLS.to_vec(), rewards: REWARDS.to_vec() }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools: Vec<&str> = self.tools.iter().map(|entry| entry.name).collect();
        let rewards: Vec<&str> = self.rewards.iter().map(|entry| entry.name).collect();
        f.debug_struct("Registry")
            .field("environments", &self.environments())
            .field("tools", &tools)
            .field("rewards", &rewards)
            .finish()
    }
}

impl Registry {
    /// Adds an environment; it takes the place of one with its name.
    pub fn with_environment(mut self, entry: EnvironmentEntry) -> Self {
        self.environments.retain(|known| known.name != entry.name);
        self.environments.push(entry);
        self
    }

    /// Adds a tool; it takes the place of one with its name in the same environments.
    pub fn with_tool(mut self, entry: ToolEntry) -> Self {
        self.tools.retain(|known| (known.name, known.only_in) != (entry.name, entry.only_in));
        self.tools.push(entry);
        self
    }

    /// Adds a reward, the last in reports; it takes the place of one with its name.
    pub fn with_reward(mut self, entry: RewardEntry) -> Self {
        self.rewards.retain(|known| known.name != entry.name);
        self.rewards.push(entry);
        self
    }

    /// The names of the environments.
    pub fn environments(&self) -> Vec<&'static str> {
        self.environments.iter().map(|entry| entry.name).collect()
    }

    /// Whether the environment of that name calls tools.
    pub fn calls_tools(&self, name: &str) -> bool {
        self.environments.iter().any(|entry| entry.name == name && entry.tools_max > 0)
    }

    /// The tools.
    pub fn tools(&self) -> impl Iterator<Item = &ToolEntry> {
        self.tools.iter()
    }

    /// The environments that call this tool unless a recipe names others.
    pub fn environments_of(&self, tool: &ToolEntry) -> Vec<&'static str> {
        let calls = |entry: &&EnvironmentEntry| {
            let meant = entry.default_tools.contains(&tool.name).then(|| self.tool_entry(Some(entry.name), tool.name));
            matches!(meant, Some(Ok(meant)) if meant.only_in == tool.only_in)
        };
        self.environments.iter().filter(calls).map(|entry| entry.name).collect()
    }

    /// Starts the tool of that name, as an environment means it.
    ///
    /// # Errors
    /// When the name is unknown, its table does not read, or it does not start.
    pub fn tool(&self, environment: Option<&str>, (name, table): &Named) -> Result<Arc<dyn Tool>, RegistryError> {
        match self.tool_entry(environment, name) {
            Err(_) if is_python_file(Some(table)) => {
                Ok(Arc::new(PythonFileTool::start(name, &settings("tool", name, table.clone())?)?))
            }
            entry => (entry?.build)(table.clone()),
        }
    }

    /// Checks the table of the tool of that name, and starts nothing.
    fn check_tool(&self, environment: &str, (name, table): &Named) -> Result<(), RegistryError> {
        match self.tool_entry(Some(environment), name) {
            Err(_) if is_python_file(Some(table)) => {
                Ok(PythonFileTool::check(name, &settings("tool", name, table.clone())?)?)
            }
            entry => (entry?.check)(table.clone()),
        }
    }

    /// The rewards, in the order of reports.
    pub fn rewards(&self) -> impl Iterator<Item = &RewardEntry> {
        self.rewards.iter()
    }

    /// Checks an environment and the tools that a recipe names, and starts nothing; the environment's limits of tokens.
    ///
    /// # Errors
    /// When a name is unknown, a table does not read or holds a value that cannot be, or the environment cannot call so many tools.
    pub fn check(&self, (name, table): &Named, tools: &[Named]) -> Result<TokenLimits, RegistryError> {
        let entry = self.environment_entry(name)?;
        for tool in &tools_of(entry, tools)? {
            self.check_tool(entry.name, tool)?;
        }
        (entry.check)(table.clone())
    }

    /// The environment of that name, over the tools that a recipe names or else its default ones. It starts the tools that it calls.
    ///
    /// # Errors
    /// As [`Registry::check`], and when a tool does not start.
    pub fn environment(&self, (name, table): Named, tools: &[Named]) -> Result<Arc<dyn Environment>, RegistryError> {
        let entry = self.environment_entry(&name)?;
        let mut started = Vec::new();
        if entry.tools_max > 0 {
            for tool in tools_of(entry, tools)? {
                started.push(self.tool(Some(entry.name), &tool)?);
            }
        }
        (entry.build)(table, ToolSet::new(started))
    }

    fn environment_entry(&self, name: &str) -> Result<&EnvironmentEntry, RegistryError> {
        let unknown = || RegistryError::unknown("environment", name, &self.environments());
        self.environments.iter().find(|entry| entry.name == name).ok_or_else(unknown)
    }

    /// The tool that an environment means by a name.
    fn tool_entry(&self, environment: Option<&str>, name: &str) -> Result<&ToolEntry, RegistryError> {
        let mut named = self.tools.iter().filter(|entry| entry.name == name);
        let own = named.clone().find(|entry| entry.only_in.is_some() && entry.only_in == environment);
        own.or_else(|| named.find(|entry| entry.only_in.is_none())).ok_or_else(|| {
            let known: Vec<&str> = self.tools.iter().map(|entry| entry.name).collect();
            RegistryError::unknown("tool", name, &known)
        })
    }
}

/// The tools of an environment: those that a recipe names, or else its default ones.
fn tools_of(entry: &EnvironmentEntry, named: &[Named]) -> Result<Vec<Named>, RegistryError> {
    if named.is_empty() {
        return Ok(entry.default_tools.iter().map(|name| ((*name).to_owned(), toml::Table::new())).collect());
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    let wrong = |usable: String, remedy| {
        let (environment, given) = (entry.name.to_owned(), names.join(", "));
        Err(RegistryError::Tools { environment, usable, given, remedy })
    };
    if names.iter().enumerate().any(|(number, name)| names[..number].contains(name)) {
        return wrong("each tool by its name".to_owned(), "give each once");
    }
    match entry.tools_max {
        0 => Ok(named.to_vec()),
        1 if named.len() > 1 => wrong("one tool".to_owned(), "give one [tool]"),
        most if named.len() > most => wrong(format!("at most {most} tools"), "give fewer"),
        _ => Ok(named.to_vec()),
    }
}
