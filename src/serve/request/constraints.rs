//! From a request's fields to what is asked of an answer's tokens: biases, bans, penalties, and the form of the whole. Fields are read and
//! checked at once; what takes the processor a while, above all compiling a grammar, is done away from the network's threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::compiler::Compiler;
use super::json_schema::{self, Budget};
use super::settings::{Defaults, check};
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

/// Entries of a list of a request at most: biases, bad words, choices.
const ENTRIES_MAX: usize = 1024;
/// Bytes of a function's name at most.
const NAME_BYTES_MAX: usize = 256;
/// Bytes of a form at most, and of all bad words.
const FORM_BYTES_MAX: usize = 32 << 10;
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

/// Which calls a request's answers have.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolChoice {
    /// None are looked for.
    None,
    /// Those that the model makes.
    Auto,
    /// At least one; the functions that may be called, with the schemas of their arguments, and whether there may be several calls.
    Forced(Vec<(String, Value)>, bool),
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

impl ToolChoice {
    /// What `tool_choice` and `tools` say.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn read(request: &Request) -> Result<ToolChoice, ApiError> {
        let tools = request.tools.as_deref().unwrap_or_default();
        let functions = tools.iter().enumerate().map(read_function).collect::<Result<Vec<_>, ApiError>>()?;
        let wrong = |message: String| Err(ApiError::field("tool_choice", message));
        let named = match &request.tool_choice {
            Some(Value::String(choice)) if choice == "none" => return Ok(ToolChoice::None),
            None | Some(Value::Null) => None,
            Some(Value::String(choice)) if choice == "auto" => None,
            Some(Value::String(choice)) if choice == "required" => Some(None),
            Some(choice) => match choice.pointer("/function/name").and_then(Value::as_str) {
                Some(name) => Some(Some(name)),
                None => {
                    let choice = shorten(&choice.to_string());
                    let forms =
                        "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}";
                    return wrong(format!("is {choice}; it must be {forms}"));
                }
            },
        };
        let Some(name) = named else {
            return Ok(if tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto });
        };
        let callable: Vec<_> = functions.into_iter().filter(|(own, _)| name.is_none_or(|name| name == own)).collect();
        match (callable.is_empty(), name) {
            (false, None) => Ok(ToolChoice::Forced(callable, request.parallel_tool_calls.unwrap_or(true))),
            (false, Some(_)) => Ok(ToolChoice::Forced(callable, false)),
            (true, None) => wrong("is \"required\", but there are no tools; give some in `tools`".to_owned()),
            (true, Some(name)) => wrong(format!("names {:?}, which is not among the tools", shorten(name))),
        }
    }
}

/// A tool's name and the schema of its arguments.
fn read_function((number, tool): (usize, &Value)) -> Result<(String, Value), ApiError> {
    let name = tool.pointer("/function/name").and_then(Value::as_str);
    let param = || format!("tools[{number}]");
    let name = name.ok_or_else(|| ApiError::field(&param(), "has no function.name, which must be a string"))?;
    let bytes = name.len();
    let range = format!("between 1 and {NAME_BYTES_MAX}");
    check(
        &format!("{}.function.name", param()),
        format!("{bytes} bytes long"),
        (1..=NAME_BYTES_MAX).contains(&bytes),
        &range,
    )?;
    let parameters = tool.pointer("/function/parameters").filter(|parameters| !parameters.is_null());
    Ok((name.to_owned(), parameters.cloned().unwrap_or_else(|| json!({"type": "object", "properties": {}}))))
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

/// The form that a request asks for by any of the fields that can; by one only.
fn read_form(request: &Request, tools: &ToolChoice) -> Result<Option<(&'static str, Form)>, ApiError> {
    let mut forms = Vec::new();
    let is_set = |value: &&Value| !value.is_null();
    if let Some(format) = request.response_format.as_ref().filter(is_set) {
        forms.extend(read_response_format(format)?.map(|form| ("response_format", form)));
    }
    if let Some(outputs) = request.structured_outputs.as_ref().filter(is_set) {
        forms.push(("structured_outputs", read_structured_outputs(outputs)?));
    }
    for (param, kind, value) in [
        ("guided_json", "json", &request.guided_json),
        ("guided_regex", "regex", &request.guided_regex),
        ("guided_choice", "choice", &request.guided_choice),
        ("guided_grammar", "grammar", &request.guided_grammar),
    ] {
        if let Some(value) = value.as_ref().filter(is_set) {
            forms.push((param, read_kind(param, kind, value)?));
        }
    }
    if let ToolChoice::Forced(functions, several) = tools {
        let mut budget = Budget::default();
        let prepared = |(name, parameters): &(String, Value)| {
            Ok((name.clone(), read_schema("tools", parameters.clone(), &mut budget)?))
        };
        let functions = functions.iter().map(prepared).collect::<Result<Vec<_>, ApiError>>()?;
        forms.push(("tool_choice", calls_form(&functions, *several)));
    }
    if let [(first, _), (second, _), ..] = forms.as_slice() {
        return Err(ApiError::field(
            second,
            format!("and `{first}` both say what the answer looks like; send one of them"),
        ));
    }
    let Some((param, form)) = forms.pop() else { return Ok(None) };
    Ok(Some(match form {
        Form::JsonSchema(schema) => (param, Form::JsonSchema(read_schema(param, schema, &mut Budget::default())?)),
        Form::Regex(text) | Form::Lark(text) if text.len() > FORM_BYTES_MAX => return Err(too_long(param, text.len())),
        form => (param, form),
    }))
}

/// A schema in the words of the grammars.
fn read_schema(param: &str, schema: Value, budget: &mut Budget) -> Result<Value, ApiError> {
    let bytes = schema.to_string().len();
    if bytes > FORM_BYTES_MAX {
        return Err(too_long(param, bytes));
    }
    json_schema::prepare(schema, budget).map_err(|reason| ApiError::field(param, format!("cannot be used: {reason}")))
}

fn too_long(param: &str, bytes: usize) -> ApiError {
    ApiError::field(param, format!("is {bytes} bytes long; it must be at most {FORM_BYTES_MAX}"))
}

/// OpenAI's form; none for any text.
fn read_response_format(format: &Value) -> Result<Option<Form>, ApiError> {
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(any_object())),
        Some("json_schema") => match format.pointer("/json_schema/schema") {
            Some(schema) => Ok(Some(Form::JsonSchema(schema.clone()))),
            None => Err(ApiError::field("response_format", "has no json_schema.schema")),
        },
        _ => {
            let message = "is of another type; it must be \"text\", \"json_object\" or \"json_schema\"";
            Err(ApiError::field("response_format", message))
        }
    }
}

/// Reads vLLM's `structured_outputs`, which has one of five kinds.
fn read_structured_outputs(outputs: &Value) -> Result<Form, ApiError> {
    const PARAM: &str = "structured_outputs";
    const KINDS: [&str; 5] = ["json", "json_object", "regex", "choice", "grammar"];
    let Some(fields) = outputs.as_object() else { return Err(ApiError::field(PARAM, "must be an object")) };
    let mut form = None;
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            kind if KINDS.contains(&kind) && form.is_none() => form = Some(read_kind(PARAM, kind, value)?),
            kind if KINDS.contains(&kind) => {
                return Err(ApiError::field(PARAM, format!("has several of {}; send one", KINDS.join(", "))));
            }
            "disable_any_whitespace" | "disable_fallback" => {}
            _ if value == false => {}
            other => {
                let other = shorten(other);
                return Err(ApiError::field(
                    PARAM,
                    format!("has {other:?}, which is not supported; send one of {}", KINDS.join(", ")),
                ));
            }
        }
    }
    let mut form = form.ok_or_else(|| ApiError::field(PARAM, format!("has none of {}; send one", KINDS.join(", "))))?;
    if let (true, Form::JsonSchema(Value::Object(schema))) = (outputs["disable_any_whitespace"] == true, &mut form) {
        schema.insert("x-guidance".to_owned(), json!({"whitespace_flexible": false}));
    }
    Ok(form)
}

/// One of vLLM's kinds, in the field of that name.
fn read_kind(param: &str, kind: &str, value: &Value) -> Result<Form, ApiError> {
    let wrong = |expected: &str| Err(ApiError::field(param, format!("must be {expected} where it is a {kind}")));
    match (kind, value) {
        ("json", Value::String(text)) => match serde_json::from_str(text) {
            Ok(schema) => Ok(Form::JsonSchema(schema)),
            Err(error) => Err(ApiError::field(param, format!("is not valid JSON: {error}"))),
        },
        ("json", schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Form::JsonSchema(schema.clone())),
        ("json", _) => wrong("a JSON schema"),
        ("json_object", Value::Bool(true)) => Ok(any_object()),
        ("json_object", _) => wrong("true"),
        ("regex", Value::String(regex)) => Ok(Form::Regex(regex.clone())),
        ("grammar", Value::String(grammar)) => Ok(Form::Lark(grammar.clone())),
        ("choice", Value::Array(choices)) if !choices.is_empty() && choices.len() <= ENTRIES_MAX => {
            let literals: Option<Vec<String>> = choices.iter().map(|choice| Some(literal(choice.as_str()?))).collect();
            match literals {
                Some(literals) => Ok(Form::Lark(format!("start: {}", literals.join(" | ")))),
                None => wrong("a list of strings"),
            }
        }
        ("choice", _) => wrong(&format!("a list of 1 to {ENTRIES_MAX} strings")),
        _ => wrong("a string"),
    }
}

fn any_object() -> Form {
    Form::JsonSchema(json!({"type": "object"}))
}

/// Calls as the model writes them, one or several.
fn calls_form(functions: &[(String, Value)], several: bool) -> Form {
    let calls: Vec<String> = (0..functions.len()).map(|number| format!("call_{number}")).collect();
    let mut lark =
        format!("start: call{}\ncall: {}\n", if several { r#" ("\n" call)*"# } else { "" }, calls.join(" | "));
    for (number, (name, parameters)) in functions.iter().enumerate() {
        let open = literal(&format!("<tool_call>\n{{\"name\": {}, \"arguments\": ", literal(name)));
        let close = literal("}\n</tool_call>");
        lark += &format!("call_{number}: {open} arguments_{number} {close}\narguments_{number}: %json {parameters}\n");
    }
    Form::Lark(lark)
}

/// A text in quotes, as JSON and Lark write it.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
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
