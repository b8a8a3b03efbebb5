//! `Terminate`, with which a model ends: an environment reads the answer and runs nothing.

use serde_json::{Value, json};

use crate::prompt::python_text;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};
use crate::rollout::tools::pure::{Made, PureTool};

/// The pseudo-tool `Terminate`: its schema says how to give the answer, `ans`. One that is run after all gives the answer back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminate;

impl Terminate {
    /// The name in calls.
    pub const NAME: &'static str = "Terminate";
}

impl PureTool for Terminate {
    fn call(&self, arguments: &Value, _: &TrajectoryImages) -> Result<Made, String> {
        let answer = arguments.get("ans").ok_or("Missing 'ans' in the input parameters.")?;
        Ok(Made { text: python_text(answer), images: Vec::new() })
    }
}

impl Tool for Terminate {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn schema(&self) -> Option<Value> {
        Some(json!({"type": "function", "function": {
            "name": Self::NAME,
            "description": "Ends the task with the answer.",
            "parameters": {
                "type": "object",
                "properties": {"ans": {"type": "string", "description": "The answer to the question."}},
                "required": ["ans"],
            },
        }}))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
