//! The form of a request's answers: a JSON schema, a regular expression or a grammar, by whichever field it is asked for.

use serde_json::{Value, json};

use super::fields::ENTRIES_MAX;
use super::json_schema::{self, Budget};
use super::tool_choice::ToolChoice;
use super::wire::Request;
use crate::engine::sampling::grammar::Form;
use crate::files::json::shorten;
use crate::serve::error::ApiError;

/// Bytes of a form at most.
const FORM_BYTES_MAX: usize = 32 << 10;

/// The form that a request asks for by any of the fields that can; by one only.
pub(super) fn read_form(request: &Request, tools: &ToolChoice) -> Result<Option<(&'static str, Form)>, ApiError> {
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
