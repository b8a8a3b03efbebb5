//! Thinking with code, as Thyme does it: the model thinks, writes Python between `<code>` and `</code>`, reads what came of it between
//! `<sandbox_output>` and `</sandbox_output>` in the same message, and ends with `<answer>…</answer>`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::prompt::{ImageSource, Message, Part, Processor};
use crate::rollout::answer::{ANSWER_CLOSE, find_answer};
use crate::rollout::call::{CODE_CLOSE, CODE_OPEN, find_call};
use crate::rollout::environment::{
    Environment, EnvironmentError, Episode, Next, Observation, ObservationPart, ParsedTurn, PreparedTask, TokenLimits,
};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::shown::ShownImages;
use crate::rollout::task::{Conversation, Task, TaskPrompt};
use crate::rollout::tool::{CallResult, CallStatus, Subject, ToolCall, ToolFault, ToolOutput};
use crate::rollout::tool_set::{ToolSessions, ToolSet};
use crate::rollout::trajectory::{End, TurnKind};
use crate::sandbox::plain_name;

/// What ends a turn: a call, or the answer.
const STOP_STRINGS: [&str; 2] = [CODE_CLOSE, ANSWER_CLOSE];
/// Opens an observation.
pub const OUTPUT_OPEN: &str = "<sandbox_output>";
/// Closes an observation.
pub const OUTPUT_CLOSE: &str = "</sandbox_output>";

/// The name of a picture that has no usable file name.
const UNNAMED: &str = "image.png";

/// The system prompt for tasks that bring no messages of their own.
pub const SYSTEM_PROMPT: &str = "\
You are a helpful assistant. Solve the user's problem step by step. Along the way you may write Python code that works on the image; \
a sandbox runs it and gives you what comes of it, wrapped in `<sandbox_output></sandbox_output>`.

**Reasoning & Image Manipulation (Optional but Encouraged):**
- Think first, and decide whether a look at a changed image would help: crop a part, enlarge it, rotate it, raise the contrast.
- You may also compute with code what is tedious to compute in words.
- Code must be wrapped in these tags:
<code>
```python
# your code
```
</code>
- At the end of the code, print the path of the image that you saved (`processed_path`) or the result itself.";

/// Settings of `think_with_code`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThinkWithCodeSettings {
    /// Calls in one sequence; a call without code counts.
    pub max_code_runs: usize,
    /// Images in one sequence that tools made.
    pub max_images: usize,
    /// Tokens that the model may sample in one turn.
    pub max_turn_tokens: usize,
    /// Tokens after the prompt in all, sampled or observed.
    pub max_total_tokens: usize,
    /// Characters of text in one observation.
    pub max_observation_characters: usize,
    /// The system prompt for tasks without messages.
    pub system_prompt: String,
}

impl Default for ThinkWithCodeSettings {
    fn default() -> Self {
        Self {
            max_code_runs: 4,
            max_images: 10,
            max_turn_tokens: 2048,
            max_total_tokens: 8192,
            max_observation_characters: 4096,
            system_prompt: SYSTEM_PROMPT.to_owned(),
        }
    }
}

impl ThinkWithCodeSettings {
    /// The limits of tokens.
    pub fn limits(&self) -> TokenLimits {
        TokenLimits { turn: self.max_turn_tokens, total: self.max_total_tokens }
    }
}

/// The environment: its limits of turns and tokens, and the tool that runs the code.
pub struct ThinkWithCode {
    settings: Arc<ThinkWithCodeSettings>,
    tools: ToolSet,
}

impl ThinkWithCode {
    /// The environment with the tool that runs the code: the first of `tools`.
    pub fn new(settings: ThinkWithCodeSettings, tools: ToolSet) -> Self {
        Self { settings: Arc::new(settings), tools }
    }

    /// Thyme's conversation for a question about images.
    fn messages(&self, task: &Task, image_name: &str) -> Result<Vec<Message>, EnvironmentError> {
        let mut parts = Vec::new();
        let mut size = None;
        for source in &task.images {
            let pixels = source.load(&task.folder).map_err(crate::prompt::PromptError::from)?;
            size = size.or(Some(pixels.dimensions()));
            parts.push(Part::Image(ImageSource::Memory(pixels).sized(source.size())));
        }
        parts.push(Part::Text(user_prompt(&task.question, size.map(|size| (image_name, size)))));
        Ok(vec![Message::text("system", &*self.settings.system_prompt), Message::new("user", parts)])
    }
}

/// The text of Thyme's user message after its image: the question, the image's name and original size in pixels, the form of the reply.
pub fn user_prompt(question: &str, image: Option<(&str, (u32, u32))>) -> String {
    let mut text = String::new();
    match image {
        Some((name, (width, height))) => text.push_str(&format!(
            "\n{question}\n\n### User Image Path:** \"{name}\"\n### User Image Size:** \"{width}x{height}\"\n"
        )),
        None => text.push_str(&format!("{question}\n")),
    }
    text.push_str(
        "\n### **Output Format (strict adherence required):**\n\n\
         <think>Your detailed reasoning process, including any code, should go here.</think>\n\
         <answer>Your final answer to the user's question goes here.</answer>\n",
    );
    text
}

/// The name of the first picture, the same in the prompt and for code: its file name if that is plain text to the tokenizer.
fn image_name(processor: &Processor, images: &[ImageSource]) -> Result<String, EnvironmentError> {
    let name = match images.first().map(ImageSource::original) {
        Some(ImageSource::Path(path)) => plain_name(path, UNNAMED),
        _ => UNNAMED.to_owned(),
    };
    let tokenizer = processor.tokenizer();
    let is_text = tokenizer.encode(&name)? == tokenizer.encode_plain(&name)?;
    Ok(if is_text { name } else { UNNAMED.to_owned() })
}

impl Environment for ThinkWithCode {
    fn parallel_calls(&self) -> Option<usize> {
        self.tools.parallel_calls()
    }

    fn name(&self) -> &'static str {
        "think_with_code"
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.tools.versions()
    }

    fn stop_strings(&self) -> Vec<String> {
        STOP_STRINGS.map(str::to_owned).to_vec()
    }

    fn limits(&self) -> TokenLimits {
        self.settings.limits()
    }

    fn code_tags(&self) -> Option<(String, String)> {
        Some((CODE_OPEN.to_owned(), CODE_CLOSE.to_owned()))
    }

    fn open(&self, processor: &Processor, task: &Task, group_size: usize) -> Result<PreparedTask, EnvironmentError> {
        let messages = match &task.prompt {
            TaskPrompt::Tokens(_) => Vec::new(),
            TaskPrompt::Conversation(messages) => messages.clone(),
            TaskPrompt::Question => self.messages(task, &image_name(processor, &task.images)?)?,
        };
        let prompt = match &task.prompt {
            TaskPrompt::Tokens(prompt) => prompt.clone(),
            _ => processor.encode_messages(&messages, &task.folder, true)?,
        };
        let mut sources = task.images.clone();
        if sources.is_empty() {
            sources = messages.iter().flat_map(Message::images).cloned().collect();
        }
        let image_name = image_name(processor, &sources)?;
        let subject = Subject { images: &sources, folder: Path::new(&task.folder), image_name: &image_name };
        let code_tool = self.tools.names().next().unwrap_or_default();
        let sessions = self.tools.open(&subject, group_size)?;
        let episode = |sessions| -> Box<dyn Episode> {
            Box::new(CodeEpisode::new(Arc::clone(&self.settings), code_tool, sessions))
        };
        let images = TrajectoryImages::of_task(sources, task.folder.clone());
        let episodes = sessions.into_iter().map(episode).collect();
        Ok(PreparedTask { prompt, conversation: Conversation::of(messages, None), images, episodes })
    }
}

/// One sequence's state.
struct CodeEpisode {
    settings: Arc<ThinkWithCodeSettings>,
    /// Name of the tool that runs code.
    code_tool: &'static str,
    sessions: ToolSessions,
    runs: usize,
    shown: ShownImages,
    told_of_limit: bool,
}

impl CodeEpisode {
    fn new(settings: Arc<ThinkWithCodeSettings>, code_tool: &'static str, sessions: ToolSessions) -> Self {
        let shown = ShownImages::new(settings.max_images);
        Self { settings, code_tool, sessions, runs: 0, shown, told_of_limit: false }
    }

    /// What follows a turn that ended with `</code>`.
    fn next_for(&mut self, code: Option<&str>) -> Next {
        let call = ToolCall { tool: self.code_tool.to_owned(), request: code.unwrap_or_default().to_owned() };
        if self.runs >= self.settings.max_code_runs {
            if std::mem::replace(&mut self.told_of_limit, true) {
                return Next::End(End::CallLimit);
            }
            let text = format!(
                "The code was not run: the limit of {} code runs is reached. Give the answer now.",
                self.settings.max_code_runs
            );
            let output = ToolOutput::text(CallStatus::OverLimit, text);
            return Next::refuse(call, output);
        }
        self.runs += 1;
        match code {
            Some(_) => Next::run(call),
            None => {
                let text = "There was no code to run: write it between <code> and </code>.";
                Next::refuse(call, ToolOutput::text(CallStatus::Malformed, text))
            }
        }
    }
}

impl Episode for CodeEpisode {
    fn read(&mut self, text: &str, stop: usize) -> ParsedTurn {
        if STOP_STRINGS[stop] == ANSWER_CLOSE {
            let answer = find_answer(text);
            let split_at = answer.as_ref().map_or(text.len(), |answer| answer.with_tags.start);
            return ParsedTurn { split_at, kind: TurnKind::Answer, answer, next: Next::End(End::Answered) };
        }
        let call = find_call(text);
        let split_at = call.as_ref().map_or(text.len(), |call| call.start);
        let next = self.next_for(call.map(|call| call.code));
        ParsedTurn { split_at, kind: TurnKind::Call, answer: None, next }
    }

    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.sessions.run(call, images)
    }

    fn replay(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<(), ToolFault> {
        self.sessions.replay(call, images)
    }

    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        let (mut text, mut shown) = (String::new(), Vec::new());
        for CallResult { output, .. } in results {
            text.push_str(&cut(output.text.trim_end(), self.settings.max_observation_characters));
            shown.extend(self.shown.take(processor, output, &mut text));
        }
        if text.is_empty() && shown.is_empty() {
            text = "No output captured: print a result, or the path of an image that you saved.".to_owned();
        }
        let parts = std::iter::once(ObservationPart::Text(text)).chain(shown.into_iter().map(ObservationPart::Image));
        Ok(Observation::new(processor, (OUTPUT_OPEN, OUTPUT_CLOSE), parts)?)
    }
}

/// The first `characters` characters, and how many were left out.
fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}\n(… {} more characters)", &text[..end], text[end..].chars().count()),
    }
}
