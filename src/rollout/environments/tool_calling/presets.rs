//! The environments that call tools by name, each as one of the systems has it: its words, and its defaults of [`ToolCallingSettings`].

use super::settings::{CallsRun, ObservationCut, ToolCallingSettings, ToolsIn, WithoutCall};
use crate::rollout::answer::{AnswerRange, find_answer, find_boxed};
use crate::rollout::call_formats::{CallFormat, CallProblem};
use crate::rollout::tool::CallStatus;

/// An environment of one system.
#[derive(Debug)]
pub struct Preset {
    /// The name in recipes.
    pub name: &'static str,
    /// The tools that it calls unless a recipe names others.
    pub default_tools: &'static [&'static str],
    /// Its defaults.
    pub settings: fn() -> ToolCallingSettings,
    /// What stands around each result of an observation.
    pub(super) around_result: [&'static str; 2],
    /// Whether a result's images stand before its text.
    pub(super) images_first: bool,
    /// What the model is told of a call that cannot be read.
    pub(super) problem: fn(&CallProblem) -> String,
    /// What it is told of a turn that has no call.
    pub(super) no_call: &'static str,
    /// What it is told of a tool that does not exist.
    pub(super) unknown_tool: fn(name: &str, known: &[&str]) -> String,
    /// The text of a result.
    pub(super) result: fn(&Told<'_>) -> String,
    /// The answer in the text of a last turn.
    pub(super) answer: fn(&str) -> Option<AnswerRange>,
    /// A call counts only if nothing follows it in its message.
    pub(super) call_ends_message: bool,
    /// A call of this name ends the sequence; its argument of the second name is the answer.
    pub(super) ends_with: Option<(&'static str, &'static str)>,
}

impl Preset {
    /// Its settings with the keys of a recipe.
    ///
    /// # Errors
    /// When a key is unknown or its value cannot be.
    pub fn read(&self, keys: toml::Table) -> Result<ToolCallingSettings, toml::de::Error> {
        use serde::de::Error;
        let mut table = toml::Table::try_from((self.settings)()).map_err(toml::de::Error::custom)?;
        table.extend(keys);
        table.try_into()
    }
}

/// A result, for the words about it.
pub(super) struct Told<'a> {
    /// The tool's name.
    pub tool: &'a str,
    /// How the call went.
    pub status: CallStatus,
    /// What the tool says.
    pub text: &'a str,
}

/// Opens an observation, which is the user's message, behind the end of the model's.
pub const OPEN_USER: &str = "\n<|im_start|>user\n";
/// Closes an observation, and opens the model's next message.
pub const CLOSE_USER: &str = "<|im_end|>\n<|im_start|>assistant\n";
/// What may stand around a result within an observation: each is tokenised by itself.
pub const RESULT_MARKERS: [&str; 5] =
    ["\n<tool_response>\n", "<tool_response>\n", "\n</tool_response>", "<result>", "</result>"];

/// The tools of DeepEyes' environment `visual_toolbox_v2`.
const DEEPEYES_TOOLS: [&str; 2] = ["image_zoom_in_tool", "image_rotate_tool"];

fn in_tags(text: &str) -> Option<AnswerRange> {
    find_answer(text)
}

fn settings(call_format: CallFormat, system_prompt: &str, user_prompt: &str) -> ToolCallingSettings {
    ToolCallingSettings {
        call_format,
        calls_run: CallsRun::First,
        stop_at_call: true,
        without_call: WithoutCall::End,
        max_turns: 5,
        max_calls_per_turn: 1,
        max_calls: 1 << 20,
        max_parallel_calls: None,
        max_images: 10,
        max_image_pixels: None,
        withhold_images_of: Vec::new(),
        max_turn_tokens: 2048,
        max_total_tokens: 8192,
        max_observation_characters: 4096,
        observation_cut: ObservationCut::End,
        tools_in: ToolsIn::Auto,
        tools_column: "env_name".to_owned(),
        tool_sets: [("visual_toolbox_v2".to_owned(), DEEPEYES_TOOLS.map(str::to_owned).to_vec())].into(),
        system_prompt: system_prompt.to_owned(),
        user_prompt: user_prompt.to_owned(),
    }
}

/// How Qwen's chat templates describe tools to a model that calls them in JSON; for checkpoints whose template does not.
const HERMES_PROMPT: &str = "\
You are a helpful assistant.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{\"name\": <function-name>, \"arguments\": <args-json-object>}
</tool_call>";

/// Tools by name as verifiers' vision environment has them (Philemonade/verifiers, `vision_env.py`). What differs: the edited image is in the
/// result, where the model sees it; a turn ends at the closing tag; and a message without a call or an answer ends the sequence.
pub const VISION_TOOLS: Preset = Preset {
    name: "vision_tools",
    default_tools: &[
        "crop_image",
        "zoom_image",
        "rotate_image",
        "flip_image",
        "adjust_brightness",
        "adjust_contrast",
        "apply_blur",
        "apply_sharpen",
        "convert_grayscale",
        "resize_image",
        "get_image_info",
    ],
    settings: || ToolCallingSettings {
        max_observation_characters: 1024,
        tools_in: ToolsIn::SystemPrompt,
        ..settings(CallFormat::ToolTag, VISION_TOOLS_PROMPT, "{question}")
    },
    around_result: ["<result>", "</result>"],
    images_first: false,
    problem: |problem| match problem {
        CallProblem::NotAnObject(_) => "Error: Tool command must be a JSON object".to_owned(),
        CallProblem::NoName(_) => "Error: Tool command must specify 'name'".to_owned(),
        CallProblem::NotJson(why) => format!("Error: Tool command {why}"),
        other => format!("Error: {other}"),
    },
    no_call: "Error: Tool command not found or invalid format.",
    unknown_tool: |name, _| format!("Error: Unknown tool '{name}'"),
    result: |told| told.text.to_owned(),
    answer: in_tags,
    call_ends_message: false,
    ends_with: None,
};

const VISION_TOOLS_PROMPT: &str = "\
You answer questions about an image, and may use tools to look at it more closely.

For each step:
1. Think between <think> and </think>.
2. Then either call one tool, as JSON between <tool> and </tool>, or give the answer between <answer> and </answer>.

The tools work on the image as the last one left it:
{tools}

A call looks like this:
<tool>{\"name\": \"adjust_brightness\", \"args\": {\"factor\": 1.5}}</tool>
What comes of it is given to you between <result> and </result>.";

const THINK_CALL_ANSWER: &str = "\
{question}
Think first between <think> and </think>. Then call a tool if it helps, or give the answer between <answer> and </answer>.";

/// Zooming into the original image, as DeepEyes does it: verl's recipe `deepeyes` and, by keys, the original repository. What differs: the image
/// of a result stands in the form of Qwen's tool responses whatever the chat template does with a tool's message, and the question is not repeated.
pub const ZOOM_IN: Preset = Preset {
    name: "zoom_in",
    default_tools: &DEEPEYES_TOOLS,
    settings: || ToolCallingSettings {
        max_total_tokens: 16_384,
        max_observation_characters: 256,
        observation_cut: ObservationCut::Middle,
        ..settings(CallFormat::Hermes, HERMES_PROMPT, THINK_CALL_ANSWER)
    },
    around_result: ["<tool_response>\n", "\n</tool_response>"],
    images_first: true,
    problem: |problem| format!("Error when executing tool: {problem}"),
    no_call: "Error: there is no tool call; write one between <tool_call> and </tool_call>, or the answer.",
    unknown_tool: |name, known| {
        format!("Error when executing tool: there is no tool {name:?}; the tools are: {}", known.join(", "))
    },
    result: |told| told.text.to_owned(),
    answer: in_tags,
    call_ends_message: false,
    ends_with: None,
};

/// Zooming into any image of the trajectory, crops of crops, as Qwen3-VL's cookbook and Mini-o3 do it: several calls a turn, many turns.
pub const ZOOM_IN_BANK: Preset = Preset {
    name: "zoom_in_bank",
    default_tools: &["image_zoom_in_tool"],
    settings: || ToolCallingSettings {
        calls_run: CallsRun::All,
        stop_at_call: false,
        max_turns: 6,
        max_calls_per_turn: 4,
        max_images: 32,
        max_total_tokens: 16_384,
        ..settings(CallFormat::Hermes, HERMES_PROMPT, THINK_CALL_ANSWER)
    },
    ..ZOOM_IN
};

/// Zooming and choosing frames, as Pixel Reasoner does it (TIGER-AI-Lab/Pixel-Reasoner): the last call of a message counts, and only if the message
/// ends with it.
pub const PIXEL_REASONER: Preset = Preset {
    name: "pixel_reasoner",
    default_tools: &["crop_image_normalized", "select_frames"],
    settings: || ToolCallingSettings {
        calls_run: CallsRun::Last,
        stop_at_call: false,
        max_turns: 6,
        max_calls: 4,
        max_images: 16,
        max_image_pixels: Some(1000 * 28 * 28),
        max_total_tokens: 12_088,
        ..settings(CallFormat::Hermes, HERMES_PROMPT, PIXEL_REASONER_USER)
    },
    around_result: ["", ""],
    images_first: false,
    problem: |problem| format!("\nExecution error:\n{problem}\n"),
    no_call: "\nExecution error:\nThe message does not end with a tool call, and has no answer.\n",
    unknown_tool: |name, known| {
        format!("\nExecution error:\nThere is no tool {name:?}; the tools are: {}\n", known.join(", "))
    },
    result: |told| told.text.to_owned(),
    answer: |text| find_answer(text).or_else(|| find_boxed(text)),
    call_ends_message: true,
    ends_with: None,
};

const PIXEL_REASONER_USER: &str = "\
{question}

Look at what is given first, and decide whether a closer look would help: `crop_image_normalized` enlarges a part of an image, `select_frames` shows \
frames of a video. Reason step by step, and write your final answer within \\boxed{}.";

/// A planner of visual tools, as OpenThinkIMG has it (OpenThinkIMG/OpenThinkIMG): a message is JSON with a thought and one action. What differs:
/// observations are in the trained sequence, an image is shown once and not again with every later observation, and a message without an action is
/// answered by the form that is wanted.
pub const TOOL_PLANNER: Preset = Preset {
    name: "tool_planner",
    default_tools: &[
        "Crop",
        "DrawHorizontalLineByY",
        "DrawVerticalLineByX",
        "ZoomInSubfigure",
        "ZoominSubplot",
        "Terminate",
    ],
    settings: || ToolCallingSettings {
        stop_at_call: false,
        without_call: WithoutCall::Tell,
        max_turns: 6,
        max_images: 6,
        max_total_tokens: 16_000,
        tools_in: ToolsIn::SystemPrompt,
        ..settings(CallFormat::Actions, TOOL_PLANNER_PROMPT, "Question: {question}")
    },
    around_result: ["", ""],
    images_first: false,
    problem: |problem| format!("OBSERVATION:\nThe action cannot be read: {problem}"),
    no_call: "OBSERVATION:\nThere is no action. Write JSON: {\"thought\": \"...\", \"actions\": [{\"name\": \"...\", \"arguments\": {...}}]}",
    unknown_tool: |name, _| format!("There is no tool names {name}."),
    result: |told| {
        let text = match told.status {
            CallStatus::Ok => told.text.to_owned(),
            _ => format!("Failed to call tool {}: {}", told.tool, told.text),
        };
        format!(
            "OBSERVATION:\n{} model outputs: {text}\nPlease summarize the model outputs and answer my first question.",
            told.tool
        )
    },
    answer: in_tags,
    call_ends_message: false,
    ends_with: Some(("Terminate", "ans")),
};

const TOOL_PLANNER_PROMPT: &str = "\
You solve questions about images with the help of tools. The tools are:
{tools}

The images are named img_1, img_2 and so on, in the order in which you see them. Reply with one JSON object and nothing else: your thought, and one \
action.
{\"thought\": \"what you know and what you do next\", \"actions\": [{\"name\": \"tool\", \"arguments\": {\"image\": \"img_1\", \"param\": \"...\"}}]}
When you know the answer, call Terminate with it:
{\"thought\": \"...\", \"actions\": [{\"name\": \"Terminate\", \"arguments\": {\"ans\": \"the answer\"}}]}";

/// All of them.
pub const PRESETS: [&Preset; 5] = [&VISION_TOOLS, &ZOOM_IN, &ZOOM_IN_BANK, &PIXEL_REASONER, &TOOL_PLANNER];
