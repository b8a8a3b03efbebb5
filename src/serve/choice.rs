//! One answer as it grows: tokens become text, never half a character, and nothing of a stop string that may still be on its way.

use std::sync::Arc;

use serde_json::{Value, json};

use super::engine_loop::Progress;
use super::sampling::Settings;
use crate::engine::request::StopReason;
use crate::prompt::{StreamDecoder, Tokenizer};

/// An answer so far.
pub struct Choice {
    settings: Arc<Settings>,
    decoder: StreamDecoder,
    text: String,
    /// Bytes of the text that were given out.
    given: usize,
    /// Characters of the text.
    characters: usize,
    /// Tokens so far.
    pub tokens: usize,
}

/// What a token brought.
#[derive(Debug, Default)]
pub struct Delta {
    /// Text that can be given out now; what may begin a stop string waits.
    pub text: String,
    /// Characters that were complete before the token: where it begins in the text, or where the character does that it is a part of.
    pub offset: usize,
    /// How the answer ended, if it did.
    pub finish: Option<Finish>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// `stop` or `length`; the writer may change `stop` to `tool_calls`.
    pub reason: &'static str,
    /// The stop string or stop token, or `nothing_allowed` where what was asked for left no token; null for the end of a turn.
    pub stop: Value,
}

impl Choice {
    /// An empty answer.
    pub fn new(settings: Arc<Settings>) -> Choice {
        Choice { settings, decoder: StreamDecoder::default(), text: String::new(), given: 0, characters: 0, tokens: 0 }
    }

    /// Takes a token, or the end without one.
    pub fn take(&mut self, progress: &Progress, tokenizer: &Tokenizer, eos: &[u32]) -> Delta {
        let (before, offset) = (self.text.len(), self.characters);
        if let Some(token) = &progress.token {
            self.tokens += 1;
            let id = token.sampled.id;
            let ends_with_token = matches!(progress.stopped, Some(StopReason::Token(_))) && !self.settings.include_stop;
            let is_left_out = ends_with_token || (self.settings.skip_special && tokenizer.is_special(id));
            if !is_left_out {
                self.text.push_str(&self.decoder.push(tokenizer.token_bytes(id)));
            }
        }
        self.characters += self.text[before..].chars().count();
        let Some(reason) = progress.stopped else {
            let end = self.text.len() - self.held();
            return Delta { text: self.give(end), offset, finish: None };
        };
        self.text.push_str(&self.decoder.finish());
        let mut end = self.text.len();
        if let StopReason::Text(index) = reason {
            let stop = &self.settings.stops.strings[index];
            // Not an earlier one, which did not count: the last token completed it.
            let from = before.saturating_sub(stop.len() - 1);
            let from = (0..=from).rfind(|&byte| self.text.is_char_boundary(byte)).unwrap_or(0);
            if let Some(start) = self.text[from..].find(stop.as_str()).map(|start| from + start) {
                end = if self.settings.include_stop { start + stop.len() } else { start };
            }
        }
        let finish = Finish { reason: finish_reason(reason), stop: self.stop(reason, eos) };
        Delta { text: self.give(end), offset, finish: Some(finish) }
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
