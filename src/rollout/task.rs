//! What is rolled out: a prompt in one of three forms, the question and its reference answers, the pictures.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::prompt::{ChatError, ImageSource, Message, Prompt, place_images};
use crate::tasks::{self, Solution};

/// A task to roll out.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// What the model reads first.
    pub prompt: TaskPrompt,
    /// The question in words, which rewards read too.
    pub question: String,
    /// The reference answers.
    pub solution: Solution,
    /// The original pictures, which tools work on.
    pub images: Vec<ImageSource>,
    /// Where relative paths start.
    pub folder: PathBuf,
    /// What else stands in the row that it was made of, by key.
    pub columns: Map<String, Value>,
}

/// What the model reads first.
#[derive(Clone, Debug, Default)]
pub enum TaskPrompt {
    /// The task's question and images, in the environment's own words.
    #[default]
    Question,
    /// A conversation as it is, images in place.
    Conversation(Vec<Message>),
    /// Token ids and prepared images.
    Tokens(Prompt),
}

/// What a prompt was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, images in place; none where the prompt came as tokens.
    pub messages: Vec<Message>,
    /// The tools' schemas, where the chat template described them.
    pub tools: Option<Value>,
}

impl Conversation {
    /// One that the sequences of a group share.
    pub fn of(messages: Vec<Message>, tools: Option<Value>) -> Arc<Conversation> {
        Arc::new(Conversation { messages, tools })
    }
}

impl TaskPrompt {
    /// The conversation; the question where it has no messages.
    pub fn of_messages(messages: Vec<Message>) -> Self {
        if messages.is_empty() { TaskPrompt::Question } else { TaskPrompt::Conversation(messages) }
    }
}

impl Task {
    /// The task that a conversation is to an environment. A single message of the user is a question, which the environment puts in its own
    /// words; any other conversation is taken as it is.
    pub fn of_conversation(messages: Vec<Message>) -> Self {
        let images = messages.iter().flat_map(Message::images).cloned().collect();
        match messages.as_slice() {
            [only] if only.role == "user" => Self { question: only.texts().collect(), images, ..Self::default() },
            _ => Self { prompt: TaskPrompt::of_messages(messages), images, ..Self::default() },
        }
    }

    /// The task of an example whose pictures are in memory.
    ///
    /// # Errors
    /// When its `<image>` marks and pictures differ in number.
    pub fn of_example(example: tasks::Example) -> Result<Self, ChatError> {
        let images = example.images.into_iter().map(|pixels| ImageSource::Memory(Arc::new(pixels))).collect();
        Self::of_parts(&example.messages, images, example.question, example.solution)
    }

    /// The task of a line of a data file; its pictures are decoded when the task is opened.
    ///
    /// # Errors
    /// When its `<image>` marks and pictures differ in number.
    pub fn of_record(record: tasks::jsonl::Record) -> Result<Self, ChatError> {
        let images = record.images.into_iter().map(ImageSource::Path).collect();
        let task = Self::of_parts(&record.messages, images, record.question, record.solution)?;
        Ok(Self { columns: record.columns, ..task })
    }

    fn of_parts(
        messages: &[tasks::Message],
        images: Vec<ImageSource>,
        question: Option<String>,
        solution: Option<Solution>,
    ) -> Result<Self, ChatError> {
        let mut placed: Vec<Message> =
            messages.iter().map(|message| Message::text(message.role.as_str(), &*message.text)).collect();
        place_images(&mut placed, images.clone())?;
        Ok(Self {
            prompt: TaskPrompt::of_messages(placed),
            question: question.unwrap_or_default(),
            solution: solution.unwrap_or_default(),
            images,
            ..Self::default()
        })
    }
}
