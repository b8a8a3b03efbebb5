//! The checkpoint's own chat template, which makes prompt text of messages: in this process, or in a child that may be stopped.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::Environment;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::jinja;
use super::error::ChatError;
use super::message::Message;
use crate::isolated::Isolated;

/// What a template is told besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Open an assistant turn at the end.
    pub add_generation_prompt: bool,
    /// Tool schemas, or none.
    pub tools: Option<Value>,
    /// Other variables of the template, such as `add_vision_id`; transformers' `apply_chat_template` takes them as further arguments.
    pub variables: Map<String, Value>,
}

/// Variables that [`ChatTemplate::render`] sets itself, whatever [`RenderOptions::variables`] has under these names.
pub const OWN_VARIABLES: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// A chat template, with the special tokens that it may name.
pub struct ChatTemplate {
    source: String,
    special_tokens: Map<String, Value>,
    renderer: Renderer,
}

/// Who renders a template.
enum Renderer {
    /// This process, for those who trust the template: it may take any memory.
    Own(Box<Environment<'static>>),
    /// A child, which is stopped where the template takes more than it may.
    Isolated(Arc<Isolated>),
}

/// What a child renders: without variables it only compiles the template.
#[derive(Debug, Serialize, Deserialize)]
struct Rendering<'a> {
    source: Cow<'a, str>,
    variables: Option<Cow<'a, Map<String, Value>>>,
}

impl ChatTemplate {
    /// Compiles a template that is rendered in this process. `special_tokens` are variables such as `bos_token`.
    ///
    /// # Errors
    /// When the source is not valid Jinja, or too large.
    pub fn compile(source: String, special_tokens: Map<String, Value>) -> Result<Self, ChatError> {
        let environment = jinja::compile(&source).map_err(ChatError::Template)?;
        Ok(ChatTemplate { source, special_tokens, renderer: Renderer::Own(Box::new(environment)) })
    }

    /// Compiles a template that is rendered by a child of [`TemplateWork`].
    ///
    /// # Errors
    /// When the source is not valid Jinja, too large, or ends the child.
    pub fn isolated(
        source: String,
        special_tokens: Map<String, Value>,
        renderer: &Arc<Isolated>,
    ) -> Result<Self, ChatError> {
        jinja::check_size(&source).map_err(ChatError::Template)?;
        let job = Rendering { source: Cow::Borrowed(&source), variables: None };
        renderer.call(&job)?;
        Ok(ChatTemplate { source, special_tokens, renderer: Renderer::Isolated(renderer.clone()) })
    }

    /// Whether the template names the variable `tools`, by which it describes tools.
    pub fn takes_tools(&self) -> bool {
        self.source.contains("tools")
    }

    /// The prompt text of a conversation; each image stands as the template writes it (`<|image_pad|>` for Qwen).
    ///
    /// # Errors
    /// When the template refuses the messages, or takes more steps, text, time or memory than it may.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, ChatError> {
        let mut variables = self.special_tokens.clone();
        variables.extend(options.variables.clone());
        variables.insert("messages".to_owned(), messages.iter().map(Message::to_template).collect());
        variables.insert("tools".to_owned(), options.tools.clone().unwrap_or(Value::Null));
        variables.insert("documents".to_owned(), Value::Null);
        variables.insert("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt));
        match &self.renderer {
            Renderer::Own(environment) => jinja::render(environment, &variables).map_err(ChatError::Template),
            Renderer::Isolated(child) => {
                let job = Rendering { source: Cow::Borrowed(&self.source), variables: Some(Cow::Owned(variables)) };
                let text = child.call(&job)?;
                Ok(text.as_str().unwrap_or_default().to_owned())
            }
        }
    }
}

/// The child's side of [`ChatTemplate::isolated`]: it keeps the template that it compiled last.
#[derive(Default)]
pub struct TemplateWork {
    compiled: Mutex<Option<(String, Environment<'static>)>>,
}

impl TemplateWork {
    /// Does a job.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn render(&self, job: Value) -> Result<Value, String> {
        let job: Rendering<'_> = serde_json::from_value(job).map_err(|error| error.to_string())?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = match &mut *compiled {
            Some((source, environment)) if *source == job.source => environment,
            other => &mut other.insert((job.source.to_string(), jinja::compile(&job.source)?)).1,
        };
        match job.variables {
            Some(variables) => jinja::render(environment, &variables).map(Value::String),
            None => Ok(Value::Null),
        }
    }
}
