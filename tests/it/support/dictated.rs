//! An environment in which the model's tokens are its own and the text of its turns is not: the tiny model writes what it likes, and each
//! trajectory has the calls that a test dictates.

use std::sync::Arc;

use thyme_engine::prompt::Processor;
use thyme_engine::rollout::environment::{
    Environment, EnvironmentError, Episode, Next, Observation, ParsedTurn, PreparedTask, TokenLimits,
};
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::task::Task;
use thyme_engine::rollout::tool::{CallResult, ToolCall, ToolFault, ToolOutput};
use thyme_engine::rollout::trajectory::End;

/// Ends a turn of the model.
const STOPS: [&str; 3] = ["e", " t", "\n"];

/// The environment in which the model is taken to have said these turns, one after the other; behind them a sequence ends.
pub struct Dictated {
    inner: Arc<dyn Environment>,
    turns: &'static [&'static str],
}

impl Dictated {
    pub fn new(inner: Arc<dyn Environment>, turns: &'static [&'static str]) -> Dictated {
        Dictated { inner, turns }
    }
}

struct DictatedEpisode {
    inner: Box<dyn Episode>,
    turns: std::slice::Iter<'static, &'static str>,
}

impl DictatedEpisode {
    fn read_as(&mut self, text: &str, read: impl Fn(&mut dyn Episode, &str) -> ParsedTurn) -> ParsedTurn {
        let Some(said) = self.turns.next() else { return ParsedTurn::end(text, None, End::EndOfTurn) };
        let parsed = read(&mut *self.inner, said);
        assert!(matches!(parsed.next, Next::Call(_)));
        ParsedTurn { split_at: text.len(), ..parsed }
    }
}

impl Environment for Dictated {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn stop_strings(&self) -> Vec<String> {
        STOPS.map(str::to_owned).to_vec()
    }

    fn limits(&self) -> TokenLimits {
        self.inner.limits()
    }

    fn code_tags(&self) -> Option<(String, String)> {
        None
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        let mut prepared = self.inner.open(processor, task, group_size)?;
        let dictated = |inner| -> Box<dyn Episode> { Box::new(DictatedEpisode { inner, turns: self.turns.iter() }) };
        prepared.episodes = prepared.episodes.into_iter().map(dictated).collect();
        Ok(prepared)
    }
}

impl Episode for DictatedEpisode {
    fn read(&mut self, text: &str, _: usize) -> ParsedTurn {
        self.read_as(text, |inner, said| inner.read(said, 0))
    }

    fn read_message(&mut self, text: &str) -> ParsedTurn {
        self.read_as(text, |inner, said| inner.read_message(said))
    }

    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.inner.run(call, images)
    }

    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        self.inner.observe(processor, results)
    }
}
