//! Environments whose models call tools by name, one conversation of several messages: the model thinks and calls, the user's next message is what
//! came of the calls, until it answers. One implementation with the words and defaults of each system ([`presets`]); all its keys are the same.

mod episode;
pub mod presets;
pub mod settings;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::prompt::{Message, Part, Processor, RenderOptions};
use crate::rollout::answer::ANSWER_CLOSE;
use crate::rollout::environment::{Environment, EnvironmentError, Episode, PreparedTask, TokenLimits};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::task::{Conversation, Task, TaskPrompt};
use crate::rollout::tool::Subject;
use crate::rollout::tool_set::ToolSet;
use episode::{Shared, ToolCallingEpisode};
use presets::Preset;
use settings::{ToolCallingSettings, ToolsIn};

/// An environment that calls tools by name.
pub struct ToolCalling {
    shared: Arc<Shared>,
    tools: ToolSet,
}

impl ToolCalling {
    /// The environment of a preset with these settings, over tools that have a schema.
    pub fn new(preset: &'static Preset, settings: ToolCallingSettings, tools: ToolSet) -> Self {
        let call_end = settings.call_format.close_tag().filter(|_| settings.stop_at_call);
        let stop_strings = call_end.into_iter().chain([ANSWER_CLOSE]).map(str::to_owned).collect();
        let schemas = tools.schemas().map(|(_, schema)| schema).collect();
        let shared = Shared { preset, settings, stop_strings, schemas };
        Self { shared: Arc::new(shared), tools }
    }

    /// The conversation of a question, images in place, in the environment's own words.
    fn messages(&self, question: Vec<Part>, schemas: &[Value], by_template: bool) -> Vec<Message> {
        let settings = &self.shared.settings;
        let (before, behind) = settings.user_prompt.split_once("{question}").unwrap_or((&settings.user_prompt, ""));
        let text = |text: &str| (!text.is_empty()).then(|| Part::Text(text.to_owned()));
        let parts = text(before).into_iter().chain(question).chain(text(behind));
        let mut messages = vec![Message::new("user", joined(parts))];
        let describes_none = schemas.is_empty() && settings.system_prompt.contains("{tools}");
        if !by_template && !settings.system_prompt.is_empty() && !describes_none {
            let lines: Vec<String> = schemas.iter().map(Value::to_string).collect();
            messages.insert(0, Message::text("system", settings.system_prompt.replace("{tools}", &lines.join("\n"))));
        }
        messages
    }
}

impl ToolCalling {
    /// The tools of a task, by its row.
    fn tools_of(&self, task: &Task) -> Result<Vec<&'static str>, EnvironmentError> {
        let settings = &self.shared.settings;
        let all = self.tools.names();
        let named = match task.columns.get(&settings.tools_column) {
            None => return Ok(all.collect()),
            Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::String(name)) if name.is_empty() => return Ok(Vec::new()),
            Some(Value::String(name)) => name,
            Some(other) => {
                let column = &settings.tools_column;
                let reason = format!("the column {column:?} is {other}; give the name of a set of tools, or nothing");
                return Err(EnvironmentError::Task(reason));
            }
        };
        let set = settings.tool_sets.get(named);
        let is_of_set = |tool: &&'static str| set.map_or(tool == named, |set| set.iter().any(|name| name == tool));
        let tools: Vec<&'static str> = all.filter(is_of_set).collect();
        if tools.is_empty() {
            let known: Vec<String> =
                settings.tool_sets.keys().cloned().chain(self.tools.names().map(str::to_owned)).collect();
            let reason = format!(
                "the column {:?} is {named:?}, which names no tool of this environment; it knows {}, and \"\" for no tools",
                settings.tools_column,
                known.join(", ")
            );
            return Err(EnvironmentError::Task(reason));
        }
        Ok(tools)
    }
}

/// Parts in which no text follows another.
fn joined(parts: impl Iterator<Item = Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, part) => joined.push(part),
        }
    }
    joined
}

impl Environment for ToolCalling {
    fn name(&self) -> &'static str {
        self.shared.preset.name
    }

    fn stop_strings(&self) -> Vec<String> {
        self.shared.stop_strings.clone()
    }

    fn limits(&self) -> TokenLimits {
        self.shared.settings.limits()
    }

    fn code_tags(&self) -> Option<(String, String)> {
        None
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.tools.versions()
    }

    fn parallel_calls(&self) -> Option<usize> {
        self.shared.settings.max_parallel_calls.or(self.tools.parallel_calls())
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        let by_template = match self.shared.settings.tools_in {
            ToolsIn::Auto => processor.template_takes_tools(),
            ToolsIn::ChatTemplate => true,
            ToolsIn::SystemPrompt => false,
        };
        let tools = self.tools_of(task)?;
        let schemas: Vec<Value> =
            self.tools.schemas().filter(|(name, _)| tools.contains(name)).map(|of| of.1).collect();
        let messages = match &task.prompt {
            TaskPrompt::Tokens(_) => Vec::new(),
            TaskPrompt::Conversation(messages) => match messages.as_slice() {
                [question] if question.role == "user" => self.messages(question.content.clone(), &schemas, by_template),
                messages => messages.to_vec(),
            },
            TaskPrompt::Question => {
                let images = task.images.iter().cloned().map(Part::Image);
                self.messages(images.chain([Part::Text(task.question.clone())]).collect(), &schemas, by_template)
            }
        };
        let described = (by_template && !schemas.is_empty()).then(|| Value::Array(schemas.clone()));
        let prompt = match &task.prompt {
            TaskPrompt::Tokens(prompt) => prompt.clone(),
            _ => {
                let options =
                    RenderOptions { add_generation_prompt: true, tools: described.clone(), ..RenderOptions::default() };
                processor.encode_rendered(&messages, &task.folder, &options, processor.image_settings())?
            }
        };
        let mut sources = task.images.clone();
        if sources.is_empty() {
            sources = messages.iter().flat_map(Message::images).cloned().collect();
        }
        let subject = Subject { images: &sources, folder: Path::new(&task.folder), image_name: "image.png" };
        let sessions = self.tools.open(&subject, group_size)?;
        let episode = |sessions| -> Box<dyn Episode> {
            Box::new(ToolCallingEpisode::new(Arc::clone(&self.shared), sessions, tools.clone()))
        };
        let episodes = sessions.into_iter().map(episode).collect();
        let images = TrajectoryImages::of_task(sources, task.folder.clone());
        Ok(PreparedTask { prompt, conversation: Conversation::of(messages, described), images, episodes })
    }
}
