//! The tools of one environment, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::images::TrajectoryImages;
use super::tool::{CallStatus, Subject, Tool, ToolCall, ToolFault, ToolOutput, ToolSession};

/// Tools with different names, shared by all sequences.
#[derive(Clone, Default)]
pub struct ToolSet {
    tools: Vec<Arc<dyn Tool>>,
}

/// One sequence's sessions, one for each tool of the set.
pub struct ToolSessions {
    sessions: Vec<(&'static str, Box<dyn ToolSession>)>,
}

impl ToolSet {
    /// The tools in a recipe's order. Of two with one name the first is called.
    pub fn new(tools: Vec<Arc<dyn Tool>>) -> Self {
        Self { tools }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tools.iter().map(|tool| tool.name())
    }

    /// The names of those that say how a call looks ([`Tool::schema`]), and how.
    pub fn schemas(&self) -> impl Iterator<Item = (&'static str, Value)> {
        self.tools.iter().filter_map(|tool| Some((tool.name(), tool.schema()?)))
    }

    /// What their results depend on, as [`Tool::versions`].
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.tools.iter().flat_map(|tool| tool.versions()).collect()
    }

    /// Calls of all tools together that may run at a time: as many as the tool with the most allows, where one says a number. A tool that
    /// must run fewer waits in its own `run`.
    pub fn parallel_calls(&self) -> Option<usize> {
        self.tools.iter().filter_map(|tool| tool.parallel_calls()).max()
    }

    /// Sessions of every tool for each of `count` sequences on one task. Called on a worker thread.
    ///
    /// # Errors
    /// When the task's pictures are unusable, or a tool cannot work at all.
    pub fn open(&self, subject: &Subject<'_>, count: usize) -> Result<Vec<ToolSessions>, ToolFault> {
        let mut opened: Vec<ToolSessions> = (0..count).map(|_| ToolSessions { sessions: Vec::new() }).collect();
        for tool in &self.tools {
            let sessions = tool.open(subject, count)?;
            if sessions.len() != count {
                let reason = format!("it opened {} sessions for {count} sequences", sessions.len());
                return Err(ToolFault { tool: tool.name(), reason });
            }
            for (of_sequence, session) in opened.iter_mut().zip(sessions) {
                of_sequence.sessions.push((tool.name(), session));
            }
        }
        Ok(opened)
    }
}

impl ToolSessions {
    /// Runs a call in the session of the tool that it names. A name that no tool has is an output which lists the names. Called on a worker
    /// thread.
    ///
    /// # Errors
    /// When the tool itself failed.
    pub fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        match self.sessions.iter_mut().find(|(name, _)| *name == call.tool) {
            Some((_, session)) => session.run(&call.request, images),
            None => {
                let known: Vec<&str> = self.sessions.iter().map(|(name, _)| *name).collect();
                let text = format!("There is no tool {:?}; the tools are: {}.", call.tool, known.join(", "));
                Ok(ToolOutput::text(CallStatus::Denied, text))
            }
        }
    }

    /// Lets the tool that a call names remember the call, as [`ToolSession::replay`]. Called on a worker thread.
    ///
    /// # Errors
    /// When the tool itself failed.
    pub fn replay(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<(), ToolFault> {
        let session = self.sessions.iter_mut().find(|(name, _)| *name == call.tool);
        session.map_or(Ok(()), |(_, session)| session.replay(&call.request, images))
    }
}
