//! From the names in a recipe to plug-ins. A [`Registry`] is a table for each kind, of names, how settings are checked
//! and plug-ins built, and defaults. [`Registry::default`]
//! has those that ship; a program of one's own adds its entries and hands the registry to [`crate::cli::main`]. An unknown name lists the known
//! ones.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::environment::{Environment, TokenLimits};
use super::environments::direct::Direct;
use super::environments::think_with_code::{ThinkWithCode, ThinkWithCodeSettings};
use super::environments::vision_tools::{VisionTools, VisionToolsSettings};
use super::judge::Judge;
use super::reward::Reward;
use super::rewards::answer::{Answer, AnswerSettings};
use super::rewards::consistency::{Consistency, ConsistencySettings};
use super::rewards::format::Format;
use super::rewards::tool_success::ToolSuccess;
use super::tool::{Tool, ToolFault};
use super::tool_set::ToolSet;
use super::tools::image_edit::IMAGE_EDITS;
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

/// The environments, tools and rewards that recipes can name.
#[derive(Clone)]
pub struct Registry {
    environments: Vec<EnvironmentEntry>,
    tools: Vec<ToolEntry>,
    rewards: Vec<RewardEntry>,
}

/// The environment of recipes that name none.
pub const DEFAULT_ENVIRONMENT: &str = "think_with_code";
/// The tool of a recipe's `[tool]` that gives no name.
pub const DEFAULT_TOOL: &str = "python";

const ENVIRONMENTS: [EnvironmentEntry; 3] = [
    EnvironmentEntry {
        name: "direct",
        default_tools: &[],
        tools_max: 0,
        check: |table| Ok(settings::<Direct>("environment", "direct", table)?.limits()),
        build: |table, _| Ok(Arc::new(settings::<Direct>("environment", "direct", table)?)),
    },
    EnvironmentEntry {
        name: "think_with_code",
        default_tools: &[DEFAULT_TOOL],
        tools_max: 1,
        check: |table| Ok(settings::<ThinkWithCodeSettings>("environment", "think_with_code", table)?.limits()),
        build: |table, tools| {
            Ok(Arc::new(ThinkWithCode::new(settings("environment", "think_with_code", table)?, tools)))
        },
    },
    EnvironmentEntry {
        name: "vision_tools",
        default_tools: &[
            "crop_image",
            "zoom_image",
            "rotate_image",
            "flip_image",
            "adjust_brightness",
            "adjust_contrast",
            "apply_blur",
            "apply_sharpen",
            "convert_grayscale",
            "resize_image",
            "get_image_info",
        ],
        tools_max: usize::MAX,
        check: |table| Ok(settings::<VisionToolsSettings>("environment", "vision_tools", table)?.limits()),
        build: |table, tools| Ok(Arc::new(VisionTools::new(settings("environment", "vision_tools", table)?, tools))),
    },
];

const PYTHON: ToolEntry = ToolEntry {
    name: "python",
    needs: "Linux with user namespaces; python3 with numpy, opencv and pillow",
    check: |table| Ok(settings::<PythonSettings>("tool", "python", table)?.options().map(drop)?),
    build: |table| Ok(Arc::new(Python::start(&settings("tool", "python", table)?)?)),
};

/// The entry of the tool of that number.
const fn image_edit<const NUMBER: usize>() -> ToolEntry {
    fn check<const NUMBER: usize>(table: toml::Table) -> Result<(), RegistryError> {
        settings::<NoSettings>("tool", IMAGE_EDITS[NUMBER].name, table).map(drop)
    }
    fn build<const NUMBER: usize>(table: toml::Table) -> Result<Arc<dyn Tool>, RegistryError> {
        check::<NUMBER>(table)?;
        Ok(Arc::new(&IMAGE_EDITS[NUMBER]))
    }
    ToolEntry { name: IMAGE_EDITS[NUMBER].name, needs: "-", check: check::<NUMBER>, build: build::<NUMBER> }
}

const TOOLS: [ToolEntry; 12] = [
    PYTHON,
    image_edit::<0>(),
    image_edit::<1>(),
    image_edit::<2>(),
    image_edit::<3>(),
    image_edit::<4>(),
    image_edit::<5>(),
    image_edit::<6>(),
    image_edit::<7>(),
    image_edit::<8>(),
    image_edit::<9>(),
    image_edit::<10>(),
];

const REWARDS: [RewardEntry; 4] = [
    RewardEntry {
        name: "format",
        default_weight: 0.5,
        build: |table, _| settings::<NoSettings>("reward", "format", table).map(|_| Box::new(Format) as _),
    },
    RewardEntry {
        name: "answer",
        default_weight: 1.0,
        build: |table, judge| {
            let AnswerSettings { ask_judge } = settings("reward", "answer", table)?;
            match (ask_judge, judge) {
                (false, _) => Ok(Box::new(Answer { judge: None })),
                (true, Some(judge)) => Ok(Box::new(Answer { judge: Some(judge) })),
                (true, None) => {
                    Err(RegistryError::Judge("the reward \"answer\" asks it, and it is not given".to_owned()))
                }
            }
        },
    },
    RewardEntry {
        name: "consistency",
        default_weight: 0.5,
        build: |table, _| {
            let settings: ConsistencySettings = settings("reward", "consistency", table)?;
            Ok(Box::new(Consistency { settings }))
        },
    },
    RewardEntry {
        name: "tool_success",
        default_weight: 0.0,
        build: |table, _| settings::<NoSettings>("reward", "tool_success", table).map(|_| Box::new(ToolSuccess) as _),
    },
];

/// The settings of a plug-in that has none: any key is refused.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

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

    /// Adds a tool; it takes the place of one with its name.
    pub fn with_tool(mut self, entry: ToolEntry) -> Self {
        self.tools.retain(|known| known.name != entry.name);
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

    /// The environments that call the tool of that name unless a recipe names others.
    pub fn environments_of(&self, tool: &str) -> Vec<&'static str> {
        let calls = |entry: &&EnvironmentEntry| entry.default_tools.contains(&tool);
        self.environments.iter().filter(calls).map(|entry| entry.name).collect()
    }

    /// Starts the tool of that name.
    ///
    /// # Errors
    /// When the name is unknown, its table does not read, or it does not start.
    pub fn tool(&self, (name, table): &Named) -> Result<Arc<dyn Tool>, RegistryError> {
        (self.tool_entry(name)?.build)(table.clone())
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
        for (name, table) in &tools_of(entry, tools)? {
            (self.tool_entry(name)?.check)(table.clone())?;
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
            for (name, table) in tools_of(entry, tools)? {
                started.push((self.tool_entry(&name)?.build)(table)?);
            }
        }
        (entry.build)(table, ToolSet::new(started))
    }

    fn environment_entry(&self, name: &str) -> Result<&EnvironmentEntry, RegistryError> {
        let unknown = || RegistryError::unknown("environment", name, &self.environments());
        self.environments.iter().find(|entry| entry.name == name).ok_or_else(unknown)
    }

    fn tool_entry(&self, name: &str) -> Result<&ToolEntry, RegistryError> {
        let known = || self.tools.iter().map(|entry| entry.name).collect::<Vec<_>>();
        self.tools.iter().find(|entry| entry.name == name).ok_or_else(|| RegistryError::unknown("tool", name, &known()))
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

/// The typed settings of a plug-in's own table.
///
/// # Errors
/// When it has an unknown key or a value of another type.
pub fn settings<T: DeserializeOwned>(kind: &'static str, name: &str, table: toml::Table) -> Result<T, RegistryError> {
    let wrong = |source| RegistryError::Settings { kind, name: name.to_owned(), source: Box::new(source) };
    table.try_into().map_err(wrong)
}
