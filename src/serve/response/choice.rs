//! One answer as it grows: tokens become text, never half a character, nothing of a stop string that may still be on its way, and calls.

use std::sync::Arc;

use serde_json::{Value, json};

use super::tool_calls::{Rest, ToolCallReader, extend_calls};
use super::wire::ToolCall;
use crate::engine::request::{StopReason, TokenEvent};
use crate::prompt::{StreamDecoder, Tokenizer};
use crate::serve::request::settings::{Settings, ToolCalls};

/// An answer so far.
pub struct Choice {
    settings: Arc<Settings>,
    decoder: StreamDecoder,
    text: String,
    /// Bytes of the text that were given out.
    given: usize,
    /// Characters of the text.
    characters: usize,
    /// Where calls are looked for.
    calls: Option<ToolCallReader>,
    /// Tokens so far.
    pub tokens: usize,
}

/// An answer, or what is new of it.
#[derive(Debug, Default)]
pub struct ChoiceDelta {
    /// Text that can be given out now; what may begin a stop string or a call waits.
    pub text: String,
    /// Calls, as far as they are known.
    pub tool_calls: Vec<ToolCall>,
    /// Its tokens: each of these events has one.
    pub tokens: Vec<TokenEvent>,
    /// For each token, characters that were complete before it: where it begins in the text, or where the character does that it is a part of.
    pub offsets: Vec<usize>,
    /// How the answer ended, if it did.
    pub finish: Option<Finish>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// `stop`, `length` or `tool_calls`.
    pub reason: &'static str,
    /// The stop string or stop token, or `nothing_allowed` where what was asked for left no token; null for the end of a turn.
    pub stop: Value,
}

impl ChoiceDelta {
    /// Appends what is new.
    pub fn extend(&mut self, next: ChoiceDelta) {
        self.text.push_str(&next.text);
        extend_calls(&mut self.tool_calls, next.tool_calls);
        self.tokens.extend(next.tokens);
        self.offsets.extend(next.offsets);
        self.finish = next.finish;
    }
}

impl Choice {
    /// An empty answer.
    pub fn new(settings: Arc<Settings>) -> Choice {
        let calls = match settings.tool_calls {
            ToolCalls::Ignored => None,
            ToolCalls::Unmarked => Some(ToolCallReader::without_calls()),
            ToolCalls::Read => Some(ToolCallReader::default()),
        };
        Choice {
            settings,
            decoder: StreamDecoder::default(),
            text: String::new(),
            given: 0,
            characters: 0,
            calls,
            tokens: 0,
        }
    }

    /// Takes a token, or the end without one.
    pub fn take(&mut self, event: TokenEvent, tokenizer: &Tokenizer, eos: &[u32]) -> ChoiceDelta {
        let (before, offset) = (self.text.len(), self.characters);
        if let Some(token) = &event.token {
            self.tokens += 1;
            let ends_with_token = matches!(event.stopped, Some(StopReason::Token(_))) && !self.settings.include_stop;
            let is_left_out = ends_with_token || (self.settings.skip_special && tokenizer.is_special(token.id));
            if !is_left_out {
                self.text.push_str(&self.decoder.push(tokenizer.token_bytes(token.id)));
            }
        }
        self.characters += self.text[before..].chars().count();
        let (text, finish) = match event.stopped {
            None => (self.give(self.text.len() - self.held()), None),
            Some(reason) => {
                self.text.push_str(&self.decoder.finish());
                let finish = Finish { reason: finish_reason(reason), stop: self.stop(reason, eos) };
                (self.give(self.end(reason, before)), Some(finish))
            }
        };
        let mut delta = ChoiceDelta { text, finish, ..ChoiceDelta::default() };
        if event.token.is_some() {
            delta.tokens.push(event);
            delta.offsets.push(offset);
        }
        self.read_calls(&mut delta);
        delta
    }

    /// Takes calls out of the text.
    fn read_calls(&mut self, delta: &mut ChoiceDelta) {
        let Some(reader) = &mut self.calls else { return };
        let rest = match &delta.finish {
            None => Rest::Open,
            Some(finish) if finish.reason == "length" => Rest::Cut,
            Some(_) => Rest::Said,
        };
        let parsed = reader.read(&delta.text, rest);
        (delta.text, delta.tool_calls) = (parsed.text, parsed.tool_calls);
        if let Some(finish) = &mut delta.finish
            && reader.has_calls()
            && finish.reason == "stop"
        {
            finish.reason = "tool_calls";
        }
    }

    /// The byte at which the text of an ended answer ends; the last token begins at byte `before`.
    fn end(&self, reason: StopReason, before: usize) -> usize {
        let StopReason::Text(index) = reason else { return self.text.len() };
        let stop = &self.settings.stops.strings[index];
        // Not an earlier one, which did not count: the last token completed it.
        let from = before.saturating_sub(stop.len() - 1);
        let from = (0..=from).rfind(|&byte| self.text.is_char_boundary(byte)).unwrap_or(0);
        match self.text[from..].find(stop.as_str()).map(|start| from + start) {
            Some(start) if self.settings.include_stop => start + stop.len(),
            Some(start) => start,
            None => self.text.len(),
        }
    }

    /// The text from what was given out to `end`.
    fn give(&mut self, end: usize) -> String {
        let from = self.given.min(end);
        self.given = end;
        self.text[from..end].to_owned()
    }

    /// Bytes at the end of the text that may be the beginning of a stop string.
    fn held(&self) -> usize {
        let text = &self.text.as_bytes()[self.given..];
        let held = |stop: &String| {
            let longest = (stop.len() - 1).min(text.len());
            (1..=longest)
                .rev()
                .find(|&n| text.ends_with(&stop.as_bytes()[..n]) && self.text.is_char_boundary(self.text.len() - n))
        };
        self.settings.stops.strings.iter().filter_map(held).max().unwrap_or(0)
    }

    fn stop(&self, reason: StopReason, eos: &[u32]) -> Value {
        match reason {
            StopReason::Text(index) => json!(self.settings.stops.strings[index]),
            StopReason::Token(id) if !eos.contains(&id) => json!(id),
            StopReason::NothingAllowed => json!("nothing_allowed"),
            _ => Value::Null,
        }
    }
}

fn finish_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Text(_) | StopReason::Token(_) | StopReason::NothingAllowed => "stop",
        StopReason::TurnTokens | StopReason::TotalTokens | StopReason::ContextFull => "length",
    }
}
