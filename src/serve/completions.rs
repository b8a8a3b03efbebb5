//! Chat and text completions: from a request to its answer.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::admission::RequestGuard;
use super::agent;
use super::answers::{ResponseShape, ToolCalls, Writer};
use super::app::App;
use super::blocking::{cost_of, fetch_pictures, prepare};
use super::body::{JsonBody, QUICK_JSON_BYTES, Room};
use super::constraints::{RequestedConstraints, ToolChoice};
use super::error::ApiError;
use super::fair::Client;
use super::generation::Generation;
use super::openai::{Request, ResponseKind};
use super::prompts::{self, picture_count};
use crate::prompt::Prompt;

/// `POST /v1/chat/completions`.
pub async fn chat_completions(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Response, ApiError> {
    let request = fetch_pictures(&app, guard.client, request).await?;
    if let Some(environment) = app.environment.clone() {
        return agent::response::answer(app, &*environment, guard, (request, room)).await;
    }
    let read = |request: &Request| ToolChoice::read(request);
    let (request, tools, requested) = read_constraints(&app, (guard.client, room.bytes), request, read).await?;
    let form =
        ResponseShape { kind: ResponseKind::Chat, tool_calls: ToolCalls::of(&request, &tools), ..form(&request) };
    answer(app, guard, (request, requested, room), None, form, |app, request| Ok(vec![app.prompts.chat(request)?]))
        .await
}

/// `POST /v1/completions`.
pub async fn completions(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Response, ApiError> {
    let form = ResponseShape { kind: ResponseKind::Text, echo: request.echo.unwrap_or(false), ..form(&request) };
    let no_tools = |_: &Request| Ok(ToolChoice::None);
    let (request, _, requested) = read_constraints(&app, (guard.client, room.bytes), request, no_tools).await?;
    answer(app, guard, (request, requested, room), None, form, |app, request| app.prompts.completion(request)).await
}

/// What a request asks of its answers' tokens. That of a large one is read away from the network's threads.
pub async fn read_constraints(
    app: &Arc<App>,
    (client, bytes): (Client, u64),
    request: Request,
    tools: impl FnOnce(&Request) -> Result<ToolChoice, ApiError> + Send + 'static,
) -> Result<(Request, ToolChoice, RequestedConstraints), ApiError> {
    let read = move |app: &App| {
        let tools = tools(&request)?;
        let requested = RequestedConstraints::read(&request, &tools, &app.defaults)?;
        Ok((request, tools, requested))
    };
    match bytes < QUICK_JSON_BYTES as u64 {
        true => read(app),
        false => prepare(app, client, bytes, read).await,
    }
}

fn form(request: &Request) -> ResponseShape {
    let include_usage = request.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    ResponseShape { include_usage, ..ResponseShape::default() }
}

/// Answers a request whose prompts `make` makes, under the constraints that it requested. It has a name of its own unless it brings `id`.
/// Once there are prompts, the request, which may hold large pictures, is dropped.
pub async fn answer(
    app: Arc<App>,
    guard: RequestGuard,
    (request, requested, room): (Request, RequestedConstraints, Room),
    id: Option<String>,
    form: ResponseShape,
    make: impl FnOnce(&App, &Request) -> Result<Vec<Prompt>, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let model = app.model_name(request.model.as_deref())?;
    let mut settings = app.defaults.settings(&request)?;
    if form.kind != ResponseKind::Text && settings.echo {
        return Err(ApiError::field(
            "echo",
            "has no effect on this route; leave it out, or send the prompt to /v1/completions",
        ));
    }
    app.defaults.check_answers(prompts::count(&request), &settings)?;
    settings.token_ids |= form.kind == ResponseKind::Tokens;
    settings.tokens_as_ids |= form.kind == ResponseKind::Tokens;
    let is_stream = request.stream.unwrap_or(false);
    if requested.has_form() {
        // The end of a turn is the end of the form, whatever else is said of it.
        settings.stops.token_ids.extend(&app.defaults.eos);
    }
    guard.weigh(&app, room.bytes, prompts::count(&request), &settings)?;
    settings.constraints = requested.compile(&app, guard.client).await?;
    let cost = cost_of(room.bytes, picture_count(&request));
    let prompts = prepare(&app, guard.client, cost, move |app| make(app, &request)).await?;
    drop(room);
    let tokens: Vec<usize> = prompts.iter().map(|prompt| prompt.token_ids.len()).collect();
    app.defaults.admit(&settings, form.kind, &tokens)?;
    let generation = Generation::start(&app, settings, prompts, is_stream, guard).await?;
    let id = id.unwrap_or_else(|| app.request_id(if form.kind == ResponseKind::Chat { "chatcmpl" } else { "cmpl" }));
    let writer = Writer::new(generation, form, id, model);
    if is_stream { writer.stream().await } else { writer.whole().await }
}
