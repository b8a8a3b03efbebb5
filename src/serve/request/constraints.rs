//! From a request's fields to what is asked of an answer's tokens: biases, bans, penalties, and the form of the whole. Fields are read and
//! checked at once; what takes the processor a while, above all compiling a grammar, is done away from the network's threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::compiler::Compiler;
use super::fields::ENTRIES_MAX;
use super::forms::read_form;
use super::settings::{Defaults, check};
use super::tool_choice::ToolChoice;
use super::wire::Request;
use crate::engine::sampling::constraints::Constraints;
use crate::engine::sampling::grammar::{Form, Grammar};
use crate::files::json::shorten;
use crate::isolated::IsolatedError;
use crate::prompt::Tokenizer;
use crate::serve::app::App;
use crate::serve::blocking::on_thread;
use crate::serve::engine_loop::fair::Client;
use crate::serve::error::ApiError;

/// Bytes of all bad words at most.
const BAD_WORDS_BYTES_MAX: usize = 16 << 10;
/// Biases are kept within this distance from 0, as in vLLM.
const BIAS_MAX: f32 = 100.0;
/// Characters of the reason in an error about a form that cannot be used.
const REASON_CHARACTERS_MAX: usize = 500;

/// What a request asks, before it is compiled.
#[derive(Clone, Debug, Default)]
pub struct RequestedConstraints {
    constraints: Constraints,
    bad_words: Vec<String>,
    /// The field that asks for a form, and the form.
    form: Option<(&'static str, Form)>,
}

/// The first field of a request that asks something of its answers' tokens.
pub fn first_field(request: &Request) -> Option<&'static str> {
    let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let fields = [
        ("logit_bias", request.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty())),
        ("presence_penalty", request.presence_penalty.unwrap_or(0.0) != 0.0),
        ("frequency_penalty", request.frequency_penalty.unwrap_or(0.0) != 0.0),
        ("bad_words", request.bad_words.as_ref().is_some_and(|words| !words.is_empty())),
        ("allowed_token_ids", request.allowed_token_ids.is_some()),
        ("min_tokens", request.min_tokens.unwrap_or(0) > 0),
        ("response_format", request.response_format.as_ref().is_some_and(|format| format["type"] != "text")),
        ("structured_outputs", is_set(&request.structured_outputs)),
        ("guided_json", is_set(&request.guided_json)),
        ("guided_regex", is_set(&request.guided_regex)),
        ("guided_choice", is_set(&request.guided_choice)),
        ("guided_grammar", is_set(&request.guided_grammar)),
    ];
    fields.into_iter().find(|(_, is_asked)| *is_asked).map(|(field, _)| field)
}

impl RequestedConstraints {
    /// What a request asks.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn read(request: &Request, tools: &ToolChoice, defaults: &Defaults) -> Result<RequestedConstraints, ApiError> {
        let penalty = |param: &str, value: Option<f32>| {
            let value = value.unwrap_or(0.0);
            check(param, value, (-2.0..=2.0).contains(&value), "between -2 and 2").map(|()| value)
        };
        let constraints = Constraints {
            bias: read_bias(request.logit_bias.as_ref(), defaults)?,
            presence_penalty: penalty("presence_penalty", request.presence_penalty)?,
            frequency_penalty: penalty("frequency_penalty", request.frequency_penalty)?,
            bad_words: Vec::new(),
            allowed: read_allowed(request.allowed_token_ids.as_deref(), defaults)?,
            min_tokens: read_min_tokens(request, defaults)?,
            grammar: None,
        };
        Ok(RequestedConstraints { constraints, bad_words: read_bad_words(request)?, form: read_form(request, tools)? })
    }

    /// Whether a form is asked for.
    pub fn has_form(&self) -> bool {
        self.form.is_some()
    }

    /// What compiling costs: the bytes of the form and of the words.
    fn cost(&self) -> u64 {
        let form = self.form.as_ref().map_or(0, |(_, form)| form.to_string().len());
        (form + self.bad_words.iter().map(String::len).sum::<usize>()) as u64
    }

    /// The constraints, with words cut into tokens and the form compiled.
    ///
    /// # Errors
    /// Why a form cannot be used.
    pub async fn compile(self, app: &Arc<App>, client: Client) -> Result<Arc<Constraints>, ApiError> {
        if self.bad_words.is_empty() && self.form.is_none() {
            return Ok(Arc::new(self.constraints));
        }
        // Under a semaphore of its own: whoever sends large forms holds up others who send forms, and nobody else.
        on_thread(app, &app.compiling, (client, self.cost()), move |app| {
            let tokenizer = app.prompts.processor.tokenizer();
            let grammar = self.form.map(|(param, form)| compile(app.grammar_compiler()?, param, &form)).transpose()?;
            let bad_words = tokens_of_words(&self.bad_words, tokenizer)?;
            Ok(Arc::new(Constraints { bad_words, grammar, ..self.constraints }))
        })
        .await
    }
}

fn read_bias(bias: Option<&Map<String, Value>>, defaults: &Defaults) -> Result<BTreeMap<u32, f32>, ApiError> {
    let vocab = defaults.vocab;
    let Some(bias) = bias else { return Ok(BTreeMap::new()) };
    check("logit_bias", bias.len(), bias.len() <= ENTRIES_MAX, &format!("at most {ENTRIES_MAX} entries"))?;
    let entry = |(key, value): (&String, &Value)| {
        let id = key.parse().ok().filter(|id: &u32| (*id as usize) < vocab);
        let range = format!("has {:?}; token ids are whole numbers below {vocab}, where the model's end", shorten(key));
        let id = id.ok_or_else(|| ApiError::field("logit_bias", range))?;
        let value = value.as_f64().ok_or_else(|| {
            ApiError::field("logit_bias", format!("has {} for {key}; give a number", shorten(&value.to_string())))
        })?;
        if value > 0.0 {
            refuse_placeholder("logit_bias", id, defaults)?;
        }
        Ok((id, (value as f32).clamp(-BIAS_MAX, BIAS_MAX)))
    };
    bias.iter().map(entry).collect()
}

/// Refuses a token that is asked for and is never sampled.
fn refuse_placeholder(param: &str, id: u32, defaults: &Defaults) -> Result<(), ApiError> {
    match defaults.placeholders.contains(&id) {
        true => {
            let message = format!(
                "asks for the token {id}, which stands for a picture in a prompt and is never sampled; leave it out"
            );
            Err(ApiError::field(param, message))
        }
        false => Ok(()),
    }
}

fn read_allowed(ids: Option<&[u32]>, defaults: &Defaults) -> Result<Option<Vec<u32>>, ApiError> {
    let Some(ids) = ids else { return Ok(None) };
    check("allowed_token_ids", "an empty list", !ids.is_empty(), "one of at least one id")?;
    let vocab = defaults.vocab;
    let count = format!("a list of {}", ids.len());
    check(
        "allowed_token_ids",
        count,
        ids.len() <= vocab,
        &format!("of at most {vocab} ids, as many as the model has"),
    )?;
    let range = format!("below {vocab}, where the model's ids end");
    for &id in ids {
        check("allowed_token_ids", id, (id as usize) < vocab, &range)?;
        refuse_placeholder("allowed_token_ids", id, defaults)?;
    }
    Ok(Some(ids.to_vec()))
}

fn read_min_tokens(request: &Request, defaults: &Defaults) -> Result<usize, ApiError> {
    let tokens = request.min_tokens.unwrap_or(0);
    let max = request.max_completion_tokens.or(request.max_tokens);
    let (most, which) = max.map_or((defaults.context_tokens, "the context"), |max| (max, "max_tokens"));
    check("min_tokens", tokens, tokens <= most, &format!("at most {most}, as {which} is"))?;
    Ok(tokens)
}

fn read_bad_words(request: &Request) -> Result<Vec<String>, ApiError> {
    let words = request.bad_words.clone().unwrap_or_default();
    check("bad_words", "a list", words.len() <= ENTRIES_MAX, &format!("of at most {ENTRIES_MAX} strings"))?;
    if words.iter().any(|word| word.trim_start().is_empty()) {
        return Err(ApiError::field("bad_words", "has a string that is empty"));
    }
    let bytes: usize = words.iter().map(String::len).sum();
    check(
        "bad_words",
        format!("{bytes} bytes"),
        bytes <= BAD_WORDS_BYTES_MAX,
        &format!("at most {BAD_WORDS_BYTES_MAX}"),
    )?;
    Ok(words)
}

/// A word's tokens where a text begins with it, and where it follows a space.
fn tokens_of_words(words: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
    let mut tokens = Vec::new();
    for word in words.iter().map(|word| word.trim_start()) {
        for text in [word.to_owned(), format!(" {word}")] {
            tokens.push(tokenizer.encode(&text).map_err(|error| ApiError::field("bad_words", error))?);
        }
    }
    Ok(tokens)
}

fn compile(grammars: &Compiler, param: &str, form: &Form) -> Result<Grammar, ApiError> {
    grammars.compile(form).map_err(|error| match error {
        IsolatedError::Unusable(reason) => ApiError::no_process(reason),
        error => {
            let reason: String = error.to_string().chars().take(REASON_CHARACTERS_MAX).collect();
            ApiError::field(param, format!("cannot be used: {reason}"))
        }
    })
}
