//! One sequence of an environment that calls tools by name.

use std::sync::Arc;

use serde_json::Value;

use super::presets::{CLOSE_USER, OPEN_USER, Preset, Told};
use super::settings::{CallsRun, ToolCallingSettings, WithoutCall};
use crate::prompt::Processor;
use crate::rollout::answer::{ANSWER_CLOSE, AnswerRange};
use crate::rollout::call_formats::{MalformedCall, WrittenCall};
use crate::rollout::environment::{EnvironmentError, Episode, Next, Observation, ParsedTurn, PlannedCall};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::shown::ShownImages;
use crate::rollout::tool::{CallResult, CallStatus, ToolCall, ToolFault, ToolOutput};
use crate::rollout::tool_set::ToolSessions;
use crate::rollout::trajectory::{End, TurnKind};

/// What all sequences of an environment share.
pub struct Shared {
    pub preset: &'static Preset,
    pub settings: ToolCallingSettings,
    /// What ends a turn: an answer, and a call where turns end at one.
    pub stop_strings: Vec<String>,
    /// The tools' schemas.
    pub schemas: Vec<Value>,
}

/// One sequence's state.
pub struct ToolCallingEpisode {
    shared: Arc<Shared>,
    sessions: ToolSessions,
    /// Names of the task's tools.
    tools: Vec<&'static str>,
    turns: usize,
    calls: usize,
    told_of_limit: bool,
    /// The model closed its message itself.
    message_is_closed: bool,
    shown: ShownImages,
}

type Found = Result<WrittenCall, MalformedCall>;

impl ToolCallingEpisode {
    pub fn new(shared: Arc<Shared>, sessions: ToolSessions, tools: Vec<&'static str>) -> Self {
        let shown = ShownImages::new(shared.settings.max_images).with_max_pixels(shared.settings.max_image_pixels);
        Self { shared, sessions, tools, turns: 0, calls: 0, told_of_limit: false, message_is_closed: false, shown }
    }

    /// Reads a turn with its calls.
    fn read_calls(&mut self, text: &str) -> ParsedTurn {
        let Shared { preset, settings, schemas, .. } = &*self.shared.clone();
        let mut found = settings.call_format.find_calls(text, schemas);
        match settings.calls_run {
            CallsRun::First => found.truncate(1),
            CallsRun::Last => {
                found.drain(..found.len().saturating_sub(1));
            }
            CallsRun::All => {}
        }
        if preset.call_ends_message && self.message_is_closed {
            found.retain(|call| text[span_of(call).end..].trim().is_empty());
        }
        if let Some(answer) = found.iter().find_map(|call| self.final_answer(call, text)) {
            let split_at = answer.with_tags.start;
            let next = Next::End(End::Answered);
            return ParsedTurn { split_at, kind: TurnKind::Answer, answer: Some(answer), next };
        }
        if found.is_empty() && settings.without_call == WithoutCall::End && self.message_is_closed {
            let answer = (preset.answer)(text);
            let end = if answer.is_some() { End::Answered } else { End::EndOfTurn };
            return ParsedTurn::end(text, answer, end);
        }
        let split_at = found.first().map_or(text.len(), |call| span_of(call).start);
        let next = if self.turns >= settings.max_turns {
            Next::End(End::TurnLimit)
        } else if found.is_empty() {
            self.told(CallStatus::Malformed, preset.no_call)
        } else if self.calls >= settings.max_calls {
            self.over_limit()
        } else {
            Next::Call(found.into_iter().enumerate().map(|(number, call)| self.plan(number, call)).collect())
        };
        ParsedTurn { split_at, kind: TurnKind::Call, answer: None, next }
    }

    /// The answer of a call that ends the sequence.
    fn final_answer(&self, call: &Found, text: &str) -> Option<AnswerRange> {
        let (name, argument) = self.shared.preset.ends_with?;
        let call = call.as_ref().ok().filter(|call| call.tool == name)?;
        let written = match call.arguments.get(argument)? {
            Value::String(answer) => {
                let quoted = Value::String(answer.clone()).to_string();
                quoted[1..quoted.len() - 1].to_owned()
            }
            other => other.to_string(),
        };
        let at = call.span.start + text[call.span.clone()].rfind(&written)?;
        Some(AnswerRange { inside: at..at + written.len(), with_tags: call.span.clone() })
    }

    fn told(&self, status: CallStatus, text: impl Into<String>) -> Next {
        Next::refuse(ToolCall::default(), ToolOutput::text(status, text))
    }

    /// The model is told once that it has no more calls.
    fn over_limit(&mut self) -> Next {
        if std::mem::replace(&mut self.told_of_limit, true) {
            return Next::End(End::CallLimit);
        }
        let most = self.shared.settings.max_calls;
        let text = format!("The call was not run: the limit of {most} calls is reached. Give the answer now.");
        self.told(CallStatus::OverLimit, text)
    }

    /// The call of that number in its turn, and whether it runs.
    fn plan(&mut self, number: usize, call: Found) -> PlannedCall {
        let Shared { preset, settings, .. } = &*self.shared;
        let WrittenCall { tool, arguments, repairs, .. } = match call {
            Ok(call) => call,
            Err(MalformedCall { problem, .. }) => {
                let output = ToolOutput::text(CallStatus::Malformed, (preset.problem)(&problem));
                return PlannedCall::refuse(ToolCall::default(), output);
            }
        };
        let is_known = self.tools.contains(&tool.as_str());
        let unknown = (!is_known).then(|| (preset.unknown_tool)(&tool, &self.tools));
        let call = ToolCall { tool, request: Value::Object(arguments).to_string() };
        if let Some(text) = unknown {
            return PlannedCall::refuse(call, ToolOutput::text(CallStatus::Denied, text));
        }
        let limit = match (settings.max_calls_per_turn, settings.max_calls) {
            (a_turn, _) if number >= a_turn => Some(format!("{a_turn} calls in a turn")),
            (_, in_all) if self.calls >= in_all => Some(format!("{in_all} calls")),
            _ => None,
        };
        if let Some(limit) = limit {
            let text = format!("The call was not run: the limit of {limit} is reached.");
            return PlannedCall::refuse(call, ToolOutput::text(CallStatus::OverLimit, text));
        }
        self.calls += 1;
        PlannedCall { repairs, ..PlannedCall::run(call) }
    }
}

impl ToolCallingEpisode {
    /// The text of a result, as the environment words it.
    fn words(&self, call: &ToolCall, output: &ToolOutput) -> String {
        let Shared { preset, settings, .. } = &*self.shared;
        let text = settings.cut(&output.text);
        let status = output.status;
        let is_of_tool = !call.tool.is_empty() && status != CallStatus::OverLimit && status != CallStatus::Denied;
        let text = if is_of_tool { (preset.result)(&Told { tool: &call.tool, status, text: &text }) } else { text };
        match text.is_empty() && settings.withholds(&call.tool) && !output.images.is_empty() {
            true => "The image is made, and is not shown.".to_owned(),
            false => text,
        }
    }
}

fn span_of(call: &Found) -> std::ops::Range<usize> {
    match call {
        Ok(call) => call.span.clone(),
        Err(call) => call.span.clone(),
    }
}

impl Episode for ToolCallingEpisode {
    fn read(&mut self, text: &str, stop: usize) -> ParsedTurn {
        self.turns += 1;
        self.message_is_closed = false;
        if self.shared.stop_strings[stop] == ANSWER_CLOSE {
            let answer = (self.shared.preset.answer)(text);
            let split_at = answer.as_ref().map_or(text.len(), |answer| answer.with_tags.start);
            return ParsedTurn { split_at, kind: TurnKind::Answer, answer, next: Next::End(End::Answered) };
        }
        self.read_calls(text)
    }

    fn read_message(&mut self, text: &str) -> ParsedTurn {
        self.turns += 1;
        self.message_is_closed = true;
        self.read_calls(text)
    }

    fn answer_at_end(&self, text: &str) -> Option<AnswerRange> {
        (self.shared.preset.answer)(text)
    }

    fn run(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        self.sessions.run(call, images)
    }

    fn replay(&mut self, call: &ToolCall, images: &TrajectoryImages) -> Result<(), ToolFault> {
        self.sessions.replay(call, images)
    }

    fn observe(&mut self, processor: &Processor, results: &mut [CallResult]) -> Result<Observation, EnvironmentError> {
        let Shared { preset, settings, .. } = &*self.shared;
        let mut observation = Observation::default();
        let closing = if self.message_is_closed { "" } else { "<|im_end|>" };
        let [open_result, close_result] = preset.around_result;
        observation.push_marker(processor, &format!("{closing}{OPEN_USER}"))?;
        for (number, CallResult { call, output }) in results.iter_mut().enumerate() {
            let mut text = self.words(call, output);
            if settings.withholds(&call.tool) {
                output.images.clear();
            }
            let shown = self.shown.take(processor, output, &mut text);
            let line = if number > 0 { "\n" } else { "" };
            observation.push_marker(processor, &format!("{line}{open_result}"))?;
            if !preset.images_first {
                observation.push_text(processor, &text)?;
            }
            let has_images = !shown.is_empty();
            for image in shown {
                observation.push_image(processor, image);
            }
            if preset.images_first {
                let line = if has_images && !text.is_empty() { "\n" } else { "" };
                observation.push_text(processor, &format!("{line}{text}"))?;
            }
            observation.push_marker(processor, close_result)?;
        }
        observation.push_marker(processor, CLOSE_USER)?;
        Ok(observation)
    }
}
