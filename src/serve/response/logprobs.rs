//! Log-probabilities on their way into JSON. They are kept as ids and numbers, and become text only while an answer is written: a token with
//! its text, its bytes and those of the likeliest takes many times the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::engine::request::{Sampled, TokenEvent};
use crate::prompt::Processor;
use crate::serve::engine_loop::prompt_logprobs::TokenLogprobs;
use crate::serve::request::settings::LogprobsMode;

/// The value in place of the logarithm of 0, which JSON does not have.
const LOGPROB_MIN: f32 = -9999.0;

impl LogprobsMode {
    /// The number for a token.
    pub fn of(self, token: &Sampled) -> f32 {
        let logprob = match self {
            LogprobsMode::RawLogprobs => token.logprob,
            LogprobsMode::ProcessedLogprobs => token.processed_logprob,
        };
        finite(logprob)
    }
}

/// A log-probability that JSON can say.
pub fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOGPROB_MIN } else { logprob.max(LOGPROB_MIN) }
}

/// How an answer names tokens.
#[derive(Clone)]
pub struct Names {
    /// Its tokenizer gives their texts.
    pub processor: Arc<Processor>,
    /// Which log-probability is reported.
    pub mode: LogprobsMode,
    /// Write `token_id:N` in place of a token's text.
    pub as_ids: bool,
}

impl Names {
    /// A token's text.
    fn text(&self, id: u32) -> String {
        match self.as_ids {
            true => format!("token_id:{id}"),
            false => self.decoded(id),
        }
    }

    fn decoded(&self, id: u32) -> String {
        self.processor.tokenizer().decode(&[id], false)
    }

    fn bytes(&self, id: u32) -> &[u8] {
        self.processor.tokenizer().token_bytes(id)
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Names").field("as_ids", &self.as_ids).finish_non_exhaustive()
    }
}

/// A list that is made while it is written.
struct Listed<I>(I);

impl<I: Iterator + Clone> Serialize for Listed<I>
where
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(self.0.size_hint().1)?;
        for entry in self.0.clone() {
            list.serialize_element(&entry)?;
        }
        list.end()
    }
}

/// Log-probabilities of a chat's tokens: `{"content": [...]}`, an entry a token.
#[derive(Debug)]
pub struct ChatLogprobs {
    /// Tokens of the answer in order; in a stream those of one piece.
    pub tokens: Vec<TokenEvent>,
    /// How the tokens are named.
    pub names: Names,
}

impl Serialize for ChatLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.tokens.iter().filter_map(|event| {
            let (token, names) = (event.token?, &self.names);
            let (logprob, top_logprobs) = (names.mode.of(&token), Some(event.top_logprobs.as_slice()));
            Some(ChatEntry { id: token.id, logprob, top_logprobs, names })
        });
        let mut whole = serializer.serialize_struct("ChatLogprobs", 1)?;
        whole.serialize_field("content", &Listed(entries))?;
        whole.end()
    }
}

/// A token of a chat: its text, the natural logarithm of its probability, its bytes, and the likeliest tokens in its place, of which none has
/// a list of its own.
struct ChatEntry<'a> {
    id: u32,
    logprob: f32,
    top_logprobs: Option<&'a [(u32, f32)]>,
    names: &'a Names,
}

impl Serialize for ChatEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("ChatLogprob", 3 + usize::from(self.top_logprobs.is_some()))?;
        entry.serialize_field("token", &self.names.text(self.id))?;
        entry.serialize_field("logprob", &finite(self.logprob))?;
        entry.serialize_field("bytes", self.names.bytes(self.id))?;
        if let Some(top_logprobs) = self.top_logprobs {
            let names = self.names;
            let entries =
                top_logprobs.iter().map(|&(id, logprob)| ChatEntry { id, logprob, top_logprobs: None, names });
            entry.serialize_field("top_logprobs", &Listed(entries))?;
        }
        entry.end()
    }
}

/// Log-probabilities of a completion's tokens: `tokens`, `token_logprobs`, `top_logprobs` and `text_offset`, in each list one entry a token.
#[derive(Debug)]
pub struct TextLogprobs {
    /// The tokens, those of an echoed prompt first.
    pub places: Vec<TextPlace>,
    /// How the tokens are named.
    pub names: Names,
}

/// A token of a completion.
#[derive(Debug)]
pub struct TextPlace {
    /// The token's id in the vocabulary.
    pub id: u32,
    /// Its log-probability; none for the first token of an echoed prompt, which has nothing to be predicted from.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place.
    pub top_logprobs: Vec<(u32, f32)>,
    /// Characters of the text that are complete before it.
    pub offset: usize,
}

impl Serialize for TextLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let places = self.places.iter();
        let top = |place: &TextPlace| {
            let own = place.logprob.map(|logprob| (place.id, logprob))?;
            let all = place.top_logprobs.iter().copied().chain([own]);
            Some(all.map(|(id, logprob)| (self.names.text(id), finite(logprob))).collect::<BTreeMap<_, _>>())
        };
        let mut whole = serializer.serialize_struct("TextLogprobs", 4)?;
        whole.serialize_field("tokens", &Listed(places.clone().map(|place| self.names.text(place.id))))?;
        whole.serialize_field("token_logprobs", &Listed(places.clone().map(|place| place.logprob.map(finite))))?;
        whole.serialize_field("top_logprobs", &Listed(places.clone().map(top)))?;
        whole.serialize_field("text_offset", &Listed(places.map(|place| place.offset)))?;
        whole.end()
    }
}

/// For each token of a prompt, by id, itself and the likeliest in its place; null for the first token.
#[derive(Debug)]
pub struct PromptLogprobs {
    /// The places after the first.
    pub places: Arc<Vec<TokenLogprobs>>,
    /// The tokens' names.
    pub names: Names,
}

/// A token in a prompt.
#[derive(Serialize)]
struct PromptLogprob {
    /// The natural logarithm of its probability.
    logprob: f32,
    /// 1 for the likeliest.
    rank: usize,
    decoded_token: String,
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = |place: &TokenLogprobs| {
            let tokens = place.tokens.iter().map(|token| {
                let decoded_token = self.names.decoded(token.id);
                let entry = PromptLogprob { logprob: finite(token.logprob), rank: token.rank, decoded_token };
                (token.id.to_string(), entry)
            });
            tokens.collect::<BTreeMap<_, _>>()
        };
        let mut list = serializer.serialize_seq(Some(self.places.len() + 1))?;
        list.serialize_element(&None::<()>)?;
        for scored in self.places.iter() {
            list.serialize_element(&place(scored))?;
        }
        list.end()
    }
}
