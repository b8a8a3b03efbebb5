//! The keys of the environments whose models call tools by name; each environment has its own defaults of them ([`super::presets`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rollout::call_formats::CallFormat;
use crate::rollout::environment::TokenLimits;

/// Settings of an environment that calls tools by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCallingSettings {
    /// How the model writes a call.
    pub call_format: CallFormat,
    /// Which calls of a turn are run.
    pub calls_run: CallsRun,
    /// Whether a turn ends where its first call is closed. Otherwise it ends with the model's message, which may hold several calls.
    pub stop_at_call: bool,
    /// What becomes of a message that has neither a call nor an answer.
    pub without_call: WithoutCall,
    /// Turns of the model in one sequence; the last one's calls are not run.
    pub max_turns: usize,
    /// Calls in one turn, where all are run.
    pub max_calls_per_turn: usize,
    /// Calls in one sequence.
    pub max_calls: usize,
    /// Calls of all sequences that run at a time; as many as there are cores where absent.
    #[serde(default)]
    pub max_parallel_calls: Option<usize>,
    /// Images in one sequence that tools made.
    pub max_images: usize,
    /// Pixels at which the model sees a tool's image, at most; as the checkpoint has it where absent.
    #[serde(default)]
    pub max_image_pixels: Option<u64>,
    /// Tools whose images the model is not shown, `*` for all: it reads their text alone.
    pub withhold_images_of: Vec<String>,
    /// Tokens that the model may sample in one turn.
    pub max_turn_tokens: usize,
    /// Tokens after the prompt in all, sampled or observed.
    pub max_total_tokens: usize,
    /// Characters of the text of one call's result.
    pub max_observation_characters: usize,
    /// Where a longer text is cut.
    pub observation_cut: ObservationCut,
    /// Who describes the tools to the model.
    pub tools_in: ToolsIn,
    /// The column of a row that names the tools of its task: a name of `tool_sets` or a tool's, or nothing for a task without tools. A row that has no
    /// such column has all tools.
    pub tools_column: String,
    /// Names of sets of tools, and the tools.
    pub tool_sets: BTreeMap<String, Vec<String>>,
    /// The system prompt of tasks without messages; none where it is empty. The tools' schemas, a line each, stand in the place of `{tools}`; a prompt
    /// that describes tools is left out where the task has none.
    pub system_prompt: String,
    /// The user's text of tasks without messages, behind the images; the question stands in the place of `{question}`.
    pub user_prompt: String,
}

/// Which calls of a turn are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallsRun {
    /// The first.
    First,
    /// The last.
    Last,
    /// All, in order.
    All,
}

/// What becomes of a message that has neither a call nor an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutCall {
    /// The sequence ends.
    End,
    /// The model is told that the call is missing, and goes on.
    Tell,
}

/// Where a text that is too long is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservationCut {
    /// Its beginning stays.
    End,
    /// Its beginning and its end stay, as in verl.
    Middle,
}

/// Who describes the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolsIn {
    /// The checkpoint's chat template if it takes tools, else the system prompt.
    Auto,
    /// The checkpoint's chat template.
    ChatTemplate,
    /// The system prompt.
    SystemPrompt,
}

impl ToolCallingSettings {
    /// The limits of tokens.
    pub fn limits(&self) -> TokenLimits {
        TokenLimits { turn: self.max_turn_tokens, total: self.max_total_tokens }
    }

    /// Whether the images of the tool of that name are kept from the model.
    pub fn withholds(&self, tool: &str) -> bool {
        self.withhold_images_of.iter().any(|name| name == "*" || name == tool)
    }

    /// As much of a text as may be shown.
    pub fn cut(&self, text: &str) -> String {
        let most = self.max_observation_characters;
        let count = text.chars().count();
        if count <= most {
            return text.to_owned();
        }
        let first = |characters: usize| text.chars().take(characters);
        match self.observation_cut {
            ObservationCut::End => first(most).collect(),
            ObservationCut::Middle => {
                let last = text.chars().skip(count - most / 2);
                first(most / 2).chain("...(truncated)...".chars()).chain(last).collect()
            }
        }
    }
}
