//! The contract of an environment: it opens the prompt of a task, reads each turn that the model ended, by one of its stop strings or by closing
//! its message, and answers it with an observation or ends the sequence. Its state for one sequence is an [`Episode`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::answer::AnswerRange;
use super::images::TrajectoryImages;
use super::task::{Conversation, Task};
use super::tool::{CallResult, ToolCall, ToolFault, ToolOutput};
use super::trajectory::{End, TurnEnd, TurnKind};
use crate::prompt::{PreparedImage, Processor, Prompt, PromptError, TokenizerError};

/// Tasks to roll out, by number. Each is made on a worker thread shortly before it opens: of a long list only what is under way need
/// be in memory.
pub trait Tasks: Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// Task `number`, from 0.
    ///
    /// # Errors
    /// When it is unusable.
    fn task(&self, number: usize) -> Result<Cow<'_, Task>, EnvironmentError>;
}

impl Tasks for &[Task] {
    fn count(&self) -> usize {
        self.len()
    }

    fn task(&self, number: usize) -> Result<Cow<'_, Task>, EnvironmentError> {
        Ok(Cow::Borrowed(&self[number]))
    }
}

/// Opens tasks. Shared by all sequences and worker threads.
pub trait Environment: Send + Sync {
    /// The name in recipes and logs.
    fn name(&self) -> &'static str;

    /// The strings that stop a turn; [`Episode::read`] gets the index of the one that did.
    fn stop_strings(&self) -> Vec<String>;

    /// The limits of tokens.
    fn limits(&self) -> TokenLimits;

    /// The tags between which `code_temperature` holds, if the environment has such.
    fn code_tags(&self) -> Option<(String, String)>;

    /// What its tools' results depend on, as [`super::tool::Tool::versions`].
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Runs of [`Episode::run`] at a time, as [`super::tool::Tool::parallel_calls`].
    fn parallel_calls(&self) -> Option<usize> {
        None
    }

    /// The prompt of a task and an episode for each sequence of its group. Called on a worker thread.
    ///
    /// # Errors
    /// When the task is unusable: its pictures, its messages.
    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError>;
}

/// Limits of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// Tokens that the model may sample in one turn.
    pub turn: usize,
    /// Tokens after the prompt in all, sampled or observed.
    pub total: usize,
}

/// A prepared task.
pub struct PreparedTask {
    /// What all sequences of the group start from.
    pub prompt: Prompt,
    /// What it was made of.
    pub conversation: Arc<Conversation>,
    /// The task's images, which tools and rewards find by index.
    pub images: TrajectoryImages,
    /// One for each sequence.
    pub episodes: Vec<Box<dyn Episode>>,
}

/// What an environment knows of one sequence. That of a sequence which shares the beginning of another ([`super::branching`]) reads, replays and
/// observes the shared turns first, all on a worker thread; its observations of them are dropped.
pub trait Episode: Send {
    /// Reads the text that the model wrote in a turn, which `stop_strings()[stop]` ended. Called once for each such turn, on the driving
    /// thread.
    fn read(&mut self, text: &str, stop: usize) -> ParsedTurn;

    /// Reads the text of a turn that the model ended by closing its message (`<|im_end|>`, which is the last of its tokens and not in the text).
    /// Called once for each such turn, on the driving thread. The sequence ends unless an environment says otherwise.
    fn read_message(&mut self, text: &str) -> ParsedTurn {
        ParsedTurn::end(text, self.answer_at_end(text), End::EndOfTurn)
    }

    /// The answer in the text of a last turn that the model did not end: a limit cut it off, or a stop string of the request.
    fn answer_at_end(&self, _text: &str) -> Option<AnswerRange> {
        None
    }

    /// Runs a tool for [`Next::Call`], on the trajectory's images as they were when the turn ended. Called on a worker thread.
    ///
    /// # Errors
    /// When the tool itself failed, not what the model asked.
    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault>;

    /// Brings a tool into the state that [`Episode::run`] would leave, where the result is known ([`super::branching`]). Called on a worker thread.
    ///
    /// # Errors
    /// When the tool itself failed.
    fn replay(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<(), ToolFault> {
        self.run(call, images).map(drop)
    }

    /// Puts the results of a turn's calls into the form that the model reads, and takes out of their outputs the images that are not shown: those
    /// that stay are the images of the observation, in order. Called on a worker thread.
    ///
    /// # Errors
    /// When the tokenizer fails, which ends the rollout.
    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError>;
}

impl dyn Episode {
    /// Reads the text of a turn that the model ended.
    pub(super) fn read_ended(&mut self, text: &str, end: TurnEnd) -> ParsedTurn {
        match end {
            TurnEnd::StopString(stop) => self.read(text, stop),
            TurnEnd::Message => self.read_message(text),
        }
    }
}

/// A turn, parsed: its thought, what follows it, and what happens now.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedTurn {
    /// Byte of the text at which it is split: there the thought ends, and what follows it begins.
    pub split_at: usize,
    /// What follows the thought.
    pub kind: TurnKind,
    /// The answer in the text; `None` where the turn has none.
    pub answer: Option<AnswerRange>,
    /// What happens now.
    pub next: Next,
}

impl ParsedTurn {
    /// A turn that ends the sequence: the answer and what is behind it, or nothing but thought.
    pub fn end(text: &str, answer: Option<AnswerRange>, end: End) -> Self {
        let split_at = answer.as_ref().map_or(text.len(), |answer| answer.with_tags.start);
        let kind = if answer.is_some() { TurnKind::Answer } else { TurnKind::Thought };
        ParsedTurn { split_at, kind, answer, next: Next::End(end) }
    }
}

/// What follows a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The model called tools. They run in order, and what comes of them all is one observation.
    Call(Vec<PlannedCall>),
    /// The sequence ends.
    End(End),
}

/// A call, and whether it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedCall {
    /// What was asked.
    pub call: ToolCall,
    /// What the model is told instead, if the call does not run.
    pub refusal: Option<ToolOutput>,
    /// Repairs made to what the model wrote, for [`ToolOutput::repairs`].
    pub repairs: Vec<&'static str>,
}

impl PlannedCall {
    /// One that runs.
    pub fn run(call: ToolCall) -> Self {
        PlannedCall { call, refusal: None, repairs: Vec::new() }
    }

    /// One that does not.
    pub fn refuse(call: ToolCall, refusal: ToolOutput) -> Self {
        PlannedCall { call, refusal: Some(refusal), repairs: Vec::new() }
    }
}

impl Next {
    /// One call, which runs.
    pub fn run(call: ToolCall) -> Self {
        Next::Call(vec![PlannedCall::run(call)])
    }

    /// One call, which does not.
    pub fn refuse(call: ToolCall, refusal: ToolOutput) -> Self {
        Next::Call(vec![PlannedCall::refuse(call, refusal)])
    }
}

/// An observation as the model reads it.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Token ids, images expanded.
    pub token_ids: Vec<u32>,
    /// The images in order.
    pub images: Vec<Arc<PreparedImage>>,
    /// The text, each image as `<image>`.
    pub text: String,
}

/// What an environment could not do.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// A task that its source cannot make.
    #[error("{0}")]
    Task(String),
    /// A task's prompt cannot be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Text that cannot be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tool itself cannot work.
    #[error(transparent)]
    Tool(#[from] ToolFault),
}

/// A piece of an observation.
#[derive(Clone, Debug)]
pub enum ObservationPart {
    /// Text; special tokens written out in it stay plain text.
    Text(String),
    /// A picture that is cut into patches already.
    Image(Arc<PreparedImage>),
}

impl Observation {
    /// An observation between two markers. Rollouts and demonstrations make theirs here, so that a model is trained on the tokens that it
    /// meets: each marker and each text is tokenised by itself.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(
        processor: &Processor,
        (open, close): (&str, &str),
        parts: impl IntoIterator<Item = ObservationPart>,
    ) -> Result<Self, TokenizerError> {
        let mut observation = Observation::default();
        observation.push_marker(processor, open)?;
        for part in parts {
            match part {
                ObservationPart::Text(text) => observation.push_text(processor, &text)?,
                ObservationPart::Image(image) => observation.push_image(processor, image),
            }
        }
        observation.push_marker(processor, close)?;
        Ok(observation)
    }

    /// Adds a marker, which may hold tokens of the vocabulary that no text holds (`<|im_end|>`).
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn push_marker(&mut self, processor: &Processor, marker: &str) -> Result<(), TokenizerError> {
        self.token_ids.extend(processor.tokenizer().encode(marker)?);
        self.text.push_str(marker);
        Ok(())
    }

    /// Adds text, tokenised by itself. Special tokens written out in it (`<|im_end|>`) stay plain text: what a program prints must not
    /// act on the conversation.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn push_text(&mut self, processor: &Processor, text: &str) -> Result<(), TokenizerError> {
        self.token_ids.extend(processor.tokenizer().encode_plain(text)?);
        self.text.push_str(text);
        Ok(())
    }

    /// Adds an image, as the chat template writes one.
    pub fn push_image(&mut self, processor: &Processor, image: Arc<PreparedImage>) {
        let ids = processor.special_ids();
        self.token_ids.push(ids.vision_start);
        self.token_ids.extend(std::iter::repeat_n(ids.image_pad, processor.image_tokens(&image)));
        self.token_ids.push(ids.vision_end);
        self.images.push(image);
        self.text.push_str("<image>");
    }
}
