//! Image tools by name, as verifiers' vision environment has them (Philemonade/verifiers, `vision_env.py`): the model thinks, writes
//! `<tool>{"name": ..., "args": {...}}</tool>`, reads what came of it as the user's next message between `<result>` and `</result>`, and ends
//! with `<answer>…</answer>`. What differs from the original: the edited image is in the result, where the model sees it; a turn ends at
//! the closing tag; and a message without a call or an answer ends the sequence.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::prompt::{Message, Part, Processor};
use crate::rollout::answer::{ANSWER_CLOSE, AnswerRange, find_answer};
use crate::rollout::environment::{
    Environment, EnvironmentError, Episode, Next, Observation, ObservationPart, ParsedTurn, PreparedTask, TokenLimits,
};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::shown::ShownImages;
use crate::rollout::task::{Task, TaskPrompt};
use crate::rollout::tool::{CallStatus, Subject, ToolCall, ToolFault, ToolOutput};
use crate::rollout::tool_set::{ToolSessions, ToolSet};
use crate::rollout::trajectory::{End, TurnKind};

const TOOL_OPEN: &str = "<tool>";
const TOOL_CLOSE: &str = "</tool>";
/// What ends a turn: a call, or the answer.
const STOP_STRINGS: [&str; 2] = [TOOL_CLOSE, ANSWER_CLOSE];
/// Around a result: the model's message ends, the user's is the result, and the model goes on in one of its own.
const RESULT_OPEN: &str = "<|im_end|>\n<|im_start|>user\n<result>";
const RESULT_CLOSE: &str = "</result><|im_end|>\n<|im_start|>assistant\n";

/// The system prompt; the tools' descriptions stand in the place of `{tools}`.
const SYSTEM_PROMPT: &str = "\
You answer questions about an image, and may use tools to look at it more closely.

For each step:
1. Think between <think> and </think>.
2. Then either call one tool, as JSON between <tool> and </tool>, or give the answer between <answer> and </answer>.

The tools work on the image as the last one left it:
{tools}

A call looks like this:
<tool>{\"name\": \"adjust_brightness\", \"args\": {\"factor\": 1.5}}</tool>
What comes of it is given to you between <result> and </result>.";

/// Settings of `vision_tools`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisionToolsSettings {
    /// Turns of the model in one sequence; the last one's call is not run.
    pub max_turns: usize,
    /// Images in one sequence that tools made.
    pub max_images: usize,
    /// Tokens that the model may sample in one turn.
    pub max_turn_tokens: usize,
    /// Tokens after the prompt in all, sampled or observed.
    pub max_total_tokens: usize,
    /// Characters of a result.
    pub max_observation_characters: usize,
    /// The system prompt for tasks without messages; `{tools}` in it are the tools' descriptions.
    pub system_prompt: String,
}

impl Default for VisionToolsSettings {
    fn default() -> Self {
        Self {
            max_turns: 10,
            max_images: 10,
            max_turn_tokens: 1024,
            max_total_tokens: 8192,
            max_observation_characters: 1024,
            system_prompt: SYSTEM_PROMPT.to_owned(),
        }
    }
}

impl VisionToolsSettings {
    /// The limits of tokens.
    pub fn limits(&self) -> TokenLimits {
        TokenLimits { turn: self.max_turn_tokens, total: self.max_total_tokens }
    }
}

/// The environment: its limits and its tools.
pub struct VisionTools {
    settings: Arc<VisionToolsSettings>,
    tools: ToolSet,
}

impl VisionTools {
    /// The environment over tools that have a schema.
    pub fn new(settings: VisionToolsSettings, tools: ToolSet) -> Self {
        Self { settings: Arc::new(settings), tools }
    }

    fn messages(&self, task: &Task) -> Vec<Message> {
        let schemas: Vec<String> = self.tools.schemas().iter().map(Value::to_string).collect();
        let system = self.settings.system_prompt.replace("{tools}", &schemas.join("\n"));
        let parts = task.images.iter().cloned().map(Part::Image).chain([Part::Text(task.question.clone())]);
        vec![Message::text("system", system), Message::new("user", parts.collect())]
    }
}

impl Environment for VisionTools {
    fn name(&self) -> &'static str {
        "vision_tools"
    }

    fn stop_strings(&self) -> Vec<String> {
        STOP_STRINGS.map(str::to_owned).to_vec()
    }

    fn limits(&self) -> TokenLimits {
        self.settings.limits()
    }

    fn code_tags(&self) -> Option<(String, String)> {
        None
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        let prompt = match &task.prompt {
            TaskPrompt::Tokens(prompt) => prompt.clone(),
            TaskPrompt::Conversation(messages) => processor.encode_messages(messages, &task.folder, true)?,
            TaskPrompt::Question => processor.encode_messages(&self.messages(task), &task.folder, true)?,
        };
        let mut sources = task.images.clone();
        if let (true, TaskPrompt::Conversation(messages)) = (sources.is_empty(), &task.prompt) {
            sources = messages.iter().flat_map(Message::images).cloned().collect();
        }
        let subject = Subject { images: &sources, folder: Path::new(&task.folder), image_name: "image.png" };
        let sessions = self.tools.open(&subject, group_size)?;
        let episode = |sessions| -> Box<dyn Episode> {
            let (settings, tools) = (Arc::clone(&self.settings), self.tools.names().collect());
            let shown = ShownImages::new(settings.max_images);
            Box::new(ToolEpisode { settings, tools, sessions, turns: 0, shown })
        };
        let episodes = sessions.into_iter().map(episode).collect();
        Ok(PreparedTask { prompt, images: TrajectoryImages::of_task(sources, task.folder.clone()), episodes })
    }
}

/// One sequence's state.
struct ToolEpisode {
    settings: Arc<VisionToolsSettings>,
    /// Names of the tools.
    tools: Vec<&'static str>,
    sessions: ToolSessions,
    turns: usize,
    shown: ShownImages,
}

/// The call in a turn's text, or the original's words for what is wrong with it.
fn find_call(text: &str, tools: &[&str]) -> Result<ToolCall, (CallStatus, String)> {
    let malformed = |text: &str| (CallStatus::Malformed, text.to_owned());
    let inside = text.find(TOOL_OPEN).and_then(|open| text[open + TOOL_OPEN.len()..].split_once(TOOL_CLOSE));
    let (json, _) = inside.ok_or_else(|| malformed("Error: Tool command not found or invalid format."))?;
    let command: Value = serde_json::from_str(json.trim())
        .map_err(|error| (CallStatus::Malformed, format!("Error: Tool command is no JSON: {error}")))?;
    let Value::Object(mut command) = command else {
        return Err(malformed("Error: Tool command must be a JSON object"));
    };
    let Some(Value::String(name)) = command.remove("name") else {
        return Err(malformed("Error: Tool command must specify 'name'"));
    };
    if !tools.contains(&name.as_str()) {
        return Err((CallStatus::Denied, format!("Error: Unknown tool '{name}'")));
    }
    let arguments = command.remove("args").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    Ok(ToolCall { tool: name, request: arguments.to_string() })
}

impl Episode for ToolEpisode {
    fn read(&mut self, text: &str, stop: usize) -> ParsedTurn {
        self.turns += 1;
        if STOP_STRINGS[stop] == ANSWER_CLOSE {
            let answer = find_answer(text);
            let split_at = answer.as_ref().map_or(text.len(), |answer| answer.with_tags.start);
            return ParsedTurn { split_at, kind: TurnKind::Answer, answer, next: Next::End(End::Answered) };
        }
        let split_at = text.find(TOOL_OPEN).unwrap_or(text.len());
        let next = match find_call(text, &self.tools) {
            _ if self.turns >= self.settings.max_turns => Next::End(End::CallLimit),
            Ok(call) => Next::Run(call),
            Err((status, said)) => Next::Refuse { call: ToolCall::default(), output: ToolOutput::text(status, said) },
        };
        ParsedTurn { split_at, kind: TurnKind::Call, answer: None, next }
    }

    fn answer_at_end(&self, text: &str) -> Option<AnswerRange> {
        find_answer(text)
    }

    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.sessions.run(call, images)
    }

    fn observe(&mut self, processor: &Processor, output: &mut ToolOutput) -> Result<Observation, EnvironmentError> {
        let mut text: String = output.text.chars().take(self.settings.max_observation_characters).collect();
        let images = self.shown.take(processor, output, &mut text);
        let parts = std::iter::once(ObservationPart::Text(text)).chain(images.into_iter().map(ObservationPart::Image));
        Ok(Observation::new(processor, (RESULT_OPEN, RESULT_CLOSE), parts)?)
    }
}
