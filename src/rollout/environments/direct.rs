//! No tools: the model answers the prompt, as it is, in one turn. The baseline of the other environments.

use serde::{Deserialize, Serialize};

use crate::prompt::{Message, Part, Processor};
use crate::rollout::answer::{AnswerRange, find_answer};
use crate::rollout::environment::{
    Environment, EnvironmentError, Episode, Observation, ParsedTurn, PreparedTask, TokenLimits,
};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::task::{Conversation, Task, TaskPrompt};
use crate::rollout::tool::{CallResult, ToolCall, ToolFault, ToolOutput};
use crate::rollout::trajectory::End;

/// The environment. Its keys are those that it shares with the others; the smaller limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direct {
    /// Tokens that the model may sample in its one turn.
    pub max_turn_tokens: usize,
    /// Tokens after the prompt.
    pub max_total_tokens: usize,
}

impl Default for Direct {
    fn default() -> Self {
        Direct { max_turn_tokens: 2048, max_total_tokens: 2048 }
    }
}

impl Environment for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn stop_strings(&self) -> Vec<String> {
        Vec::new()
    }

    fn limits(&self) -> TokenLimits {
        TokenLimits { turn: self.max_turn_tokens, total: self.max_total_tokens }
    }

    fn code_tags(&self) -> Option<(String, String)> {
        None
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        let messages = match &task.prompt {
            TaskPrompt::Tokens(_) => Vec::new(),
            TaskPrompt::Conversation(messages) => messages.clone(),
            TaskPrompt::Question => vec![question(task)],
        };
        let prompt = match &task.prompt {
            TaskPrompt::Tokens(prompt) => prompt.clone(),
            _ => processor.encode_messages(&messages, &task.folder, true)?,
        };
        let images = TrajectoryImages::of_task(task.images.clone(), task.folder.clone());
        let episode = |_| -> Box<dyn Episode> { Box::new(OneTurn) };
        let episodes = (0..group_size).map(episode).collect();
        Ok(PreparedTask { prompt, conversation: Conversation::of(messages, None), images, episodes })
    }
}

/// The images, and behind them the question.
fn question(task: &Task) -> Message {
    let parts = task.images.iter().cloned().map(Part::Image).chain([Part::Text(task.question.clone())]);
    Message::new("user", parts.collect())
}

/// The one turn. Nothing stops it before its end, so nothing is ever run.
struct OneTurn;

impl Episode for OneTurn {
    fn read(&mut self, text: &str, _: usize) -> ParsedTurn {
        ParsedTurn::end(text, find_answer(text), End::EndOfTurn)
    }

    fn answer_at_end(&self, text: &str) -> Option<AnswerRange> {
        find_answer(text)
    }

    fn run(&mut self, _: &ToolCall, _: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        Err(ToolFault { tool: "none", reason: "this environment has no tools".to_owned() })
    }

    fn observe(&mut self, _: &Processor, _: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        Ok(Observation::default())
    }
}
