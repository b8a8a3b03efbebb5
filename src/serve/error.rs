//! The error that a client gets when a request cannot be answered: OpenAI's form, with a status that its libraries understand.

use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::engine::request::GeneratorError;
use crate::prompt::{ChatError, PromptError};

/// Seconds after which a client may try again.
const RETRY_SECONDS: u32 = 1;

/// Characters of a message at most: what a client sent may be repeated in it.
const MESSAGE_CHARACTERS_MAX: usize = 2000;

/// A request that was not answered.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    /// A request that is wrong.
    pub fn bad(message: impl Display) -> ApiError {
        let mut message = message.to_string();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARACTERS_MAX) {
            message.truncate(end);
            message.push_str("...");
        }
        ApiError { status: StatusCode::BAD_REQUEST, message, param: None, code: None }
    }

    /// A field whose value is wrong.
    pub fn field(param: &str, message: impl Display) -> ApiError {
        ApiError { param: Some(param.to_owned()), ..ApiError::bad(format!("`{param}` {message}")) }
    }

    /// Any other status.
    pub fn status(status: StatusCode, code: &'static str, message: impl Display) -> ApiError {
        ApiError { status, code: Some(code), ..ApiError::bad(message) }
    }

    /// There is no such address.
    pub fn unknown_route(message: impl Display) -> ApiError {
        ApiError::status(StatusCode::NOT_FOUND, "unknown_route", message)
    }

    /// The queue is full.
    pub fn too_many(waiting: usize) -> ApiError {
        let message = format!("{waiting} requests are waiting already; try again later");
        ApiError::status(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
    }

    /// The server shuts down.
    pub fn draining() -> ApiError {
        let message = "the server is shutting down and takes no new requests; try another or later";
        ApiError::status(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message)
    }

    /// Larger bodies than there is room for are on their way.
    pub fn no_room() -> ApiError {
        ApiError::status(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_room",
            "too many large requests come in at once; try again later",
        )
    }

    /// The system has no process or no memory for what is done in a child.
    pub fn no_process(reason: impl Display) -> ApiError {
        let message = format!("the server cannot have the process that this takes: {reason}; try again later");
        ApiError::status(StatusCode::SERVICE_UNAVAILABLE, "no_process", message)
    }

    /// A prompt that cannot be made of a field.
    pub fn prompt(param: &str, error: &PromptError) -> ApiError {
        match error {
            PromptError::Chat(ChatError::NoProcess(reason)) => ApiError::no_process(reason),
            error => ApiError::field(param, error),
        }
    }

    /// The rest of a body did not come in time.
    pub fn slow_body(bytes: usize) -> ApiError {
        let message = format!("the body came too slowly: {bytes} bytes so far; send it at once");
        ApiError::status(StatusCode::REQUEST_TIMEOUT, "slow_body", message)
    }

    /// New weights were read in part only.
    pub fn incomplete_weights(reason: &str) -> ApiError {
        let message = format!(
            "the weights are incomplete, since reading others over them ended half-way: {reason}; nothing is generated until a whole \
             checkpoint is loaded with POST /update_weights"
        );
        ApiError::status(StatusCode::SERVICE_UNAVAILABLE, "incomplete_weights", message)
    }

    /// The engine failed.
    pub fn engine_failed(reason: impl Display) -> ApiError {
        let message = format!("the engine failed: {reason}");
        ApiError::status(StatusCode::INTERNAL_SERVER_ERROR, "engine_failed", message)
    }

    /// The loop that owns the engine has ended.
    pub fn engine_gone() -> ApiError {
        ApiError::engine_failed("its loop has ended")
    }

    /// A tool cannot work.
    pub fn tool_failed(reason: impl Display) -> ApiError {
        ApiError::status(StatusCode::INTERNAL_SERVER_ERROR, "tool_failed", reason)
    }

    /// Any other internal failure.
    pub fn failed(message: impl Display) -> ApiError {
        ApiError::status(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// Its HTTP status.
    pub fn status_code(&self) -> StatusCode {
        self.status
    }

    /// The JSON body that the client gets.
    pub fn body(&self) -> serde_json::Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<GeneratorError> for ApiError {
    fn from(error: GeneratorError) -> ApiError {
        match error {
            GeneratorError::NeverFits { prompt, tokens, .. } => ApiError::bad(format!(
                "a sequence of up to {tokens} tokens after a prompt of {prompt} does not fit into the server's pages even alone; lower \
                 max_tokens, or start the server with a larger --kv-cache-memory-bytes"
            )),
            GeneratorError::Failed(reason) => ApiError::engine_failed(reason),
            other => ApiError::bad(other),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
