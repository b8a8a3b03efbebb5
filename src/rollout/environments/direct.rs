//! No environment at all: the model answers the prompt in one turn.

use crate::prompt::Processor;
use crate::rollout::environment::{
    Environment, EnvironmentError, Episode, Next, Observation, Reading, Scene, Task, TokenLimits,
};
use crate::rollout::tool::{ToolFault, ToolOutput};
use crate::rollout::transcript::{End, TurnKind};

/// The environment.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    /// Tokens of an answer.
    pub max_tokens: usize,
}

impl Environment for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn stop_strings(&self) -> Vec<String> {
        Vec::new()
    }

    fn limits(&self) -> TokenLimits {
        TokenLimits { turn: self.max_tokens, total: self.max_tokens }
    }

    fn code_tags(&self) -> Option<(String, String)> {
        None
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<Scene, EnvironmentError> {
        let prompt = match &task.prompt {
            Some(prompt) => prompt.clone(),
            None => processor.encode_messages(&task.messages, &task.folder, true)?,
        };
        let episode = |_| -> Box<dyn Episode> { Box::new(OneTurn) };
        Ok(Scene { prompt, episodes: (0..group_size).map(episode).collect() })
    }
}

/// The one turn. Nothing stops it before its end, so nothing is ever run.
struct OneTurn;

impl Episode for OneTurn {
    fn read(&mut self, text: &str, _: usize) -> Reading {
        Reading { border: text.len(), kind: TurnKind::Answer, next: Next::End(End::EndOfTurn) }
    }

    fn run(&mut self, _: &str) -> Result<ToolOutput, ToolFault> {
        Err(ToolFault { tool: "none", reason: "this environment has no tools".to_owned() })
    }

    fn observe(&mut self, _: &Processor, _: &ToolOutput) -> Result<Observation, EnvironmentError> {
        Ok(Observation::default())
    }
}
