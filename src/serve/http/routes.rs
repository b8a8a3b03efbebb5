//! All routes, and what the small ones answer.

use std::sync::Arc;

use axum::extract::{self, Path, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::JsonBody;
use super::completions::{chat_completions, completions, validate};
use super::control;
use super::middleware::{admit, check_access};
use crate::serve::app::App;
use crate::serve::blocking::{cost_of, fetch_pictures, run_blocking};
use crate::serve::engine_loop::fair::Client;
use crate::serve::error::ApiError;
use crate::serve::request::fields::wholes;
use crate::serve::request::prompt_input::PromptInput;
use crate::serve::request::settings::check;
use crate::serve::request::wire::Request;

/// Token ids that are turned into text at a time, if the context is not larger.
const DETOKENIZED_MAX: usize = 65_536;

/// All routes of the server, behind the checks of access and admission.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .merge(control::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), admit))
        .layer(from_fn_with_state(app.clone(), check_access))
        .with_state(app)
}

async fn unknown_route(request: extract::Request) -> ApiError {
    let message = format!(
        "there is no {} {}; chats are at POST /v1/chat/completions, the model's name at GET /v1/models",
        request.method(),
        request.uri().path()
    );
    ApiError::unknown_route(message)
}

async fn wrong_method(request: extract::Request) -> ApiError {
    let message = format!("{} does not take {}; try GET or POST", request.uri().path(), request.method());
    ApiError::status(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    app.check_ready().map_or_else(ApiError::into_response, |()| StatusCode::OK.into_response())
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.metrics.text(&app.names[0])).into_response()
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.names.iter().map(|name| model_card(&app, name)).collect();
    Json(json!({"object": "list", "data": data}))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(model_card(&app, &app.model_name(Some(&name))?)))
}

fn model_card(app: &App, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.created,
        "owned_by": "thyme-engine",
        "root": app.names[0],
        "parent": null,
        "max_model_len": app.defaults.context_tokens,
    })
}

async fn tokenize(
    State(app): State<Arc<App>>,
    client: Client,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Json<Value>, ApiError> {
    app.model_name(request.model.as_deref())?;
    let wants_texts = request.return_token_strs.unwrap_or(false);
    let read = |app: &App| match request.messages {
        Some(_) => PromptInput::conversation(request, &app.prompts.limits),
        None => PromptInput::completion(request.prompt),
    };
    let input = validate(&app, client, &room, read).await?;
    if input.count() != 1 {
        return Err(ApiError::field("prompt", format!("is a list of {}; give one text", input.count())));
    }
    let input = fetch_pictures(&app, client, input).await?;
    let cost = cost_of(room.bytes, input.pictures().len());
    let prompts = run_blocking(&app, client, cost, move |app| app.prompts.prepare(input)).await?;
    let tokens = &prompts[0].token_ids;
    let tokenizer = app.prompts.processor.tokenizer();
    let texts: Option<Vec<String>> =
        wants_texts.then(|| tokens.iter().map(|id| tokenizer.decode(&[*id], false)).collect());
    let max = app.defaults.context_tokens;
    Ok(Json(json!({"count": tokens.len(), "max_model_len": max, "tokens": tokens, "token_strs": texts})))
}

/// What `/detokenize` is asked.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Detokenize {
    model: Option<String>,
    #[serde(deserialize_with = "wholes")]
    tokens: Vec<u32>,
}

async fn detokenize(
    State(app): State<Arc<App>>,
    JsonBody(request, _room): JsonBody<Detokenize>,
) -> Result<Json<Value>, ApiError> {
    app.model_name(request.model.as_deref())?;
    let (count, most) = (request.tokens.len(), app.defaults.context_tokens.max(DETOKENIZED_MAX));
    check("tokens", format!("a list of {count}"), count <= most, &format!("of at most {most} token ids"))?;
    let vocab = app.defaults.vocab;
    for &id in &request.tokens {
        check("tokens", id, (id as usize) < vocab, &format!("below {vocab}, where the model's ids end"))?;
    }
    Ok(Json(json!({"prompt": app.prompts.processor.tokenizer().decode(&request.tokens, false)})))
}
