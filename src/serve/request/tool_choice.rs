//! Which calls a request's answers have: what `tool_choice` and `tools` say.

use serde_json::{Value, json};

use super::settings::check;
use super::wire::Request;
use crate::files::json::shorten;
use crate::serve::error::ApiError;

/// Bytes of a function's name at most.
const NAME_BYTES_MAX: usize = 256;

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
