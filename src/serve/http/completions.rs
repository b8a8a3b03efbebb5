//! Chat and text completions: from a request to its answer.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::body::{JsonBody, QUICK_JSON_BYTES, Room};
use crate::serve::admission::RequestGuard;
use crate::serve::agent;
use crate::serve::app::App;
use crate::serve::blocking::{cost_of, fetch_pictures, run_blocking};
use crate::serve::engine_loop::fair::Client;
use crate::serve::error::ApiError;
use crate::serve::request::ValidRequest;
use crate::serve::request::wire::Request;
use crate::serve::response::generation::Generation;
use crate::serve::response::writer::Writer;

/// `POST /v1/chat/completions`.
pub async fn chat_completions(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Response, ApiError> {
    match app.environment.clone() {
        None => {
            let request = validate(&app, guard.client, &room, |app| ValidRequest::chat(request, app)).await?;
            answer(app, guard, request, room).await
        }
        Some(environment) => {
            let request = validate(&app, guard.client, &room, |app| ValidRequest::agent_chat(request, app)).await?;
            agent::response::answer(app, &*environment, guard, request, room).await
        }
    }
}

/// `POST /v1/completions`.
pub async fn completions(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Response, ApiError> {
    let request = validate(&app, guard.client, &room, |app| ValidRequest::completion(request, app)).await?;
    answer(app, guard, request, room).await
}

/// Checks a body. A large one is looked at away from the network's threads.
pub async fn validate<T: Send + 'static>(
    app: &Arc<App>,
    client: Client,
    room: &Room,
    validate: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match room.bytes < QUICK_JSON_BYTES as u64 {
        true => validate(app),
        false => run_blocking(app, client, room.bytes, validate).await,
    }
}

/// Answers a request: fetches its pictures, compiles its constraints, makes its prompts, lets the engine answer them, and writes what comes. It
/// may be refused on the way, where too many wait or the response would be too large. Once there are prompts, what they were made of is dropped.
pub async fn answer(
    app: Arc<App>,
    guard: RequestGuard,
    request: ValidRequest,
    room: Room,
) -> Result<Response, ApiError> {
    let ValidRequest { prompt, settings, constraints, options } = request;
    guard.weigh(&app, room.bytes, prompt.count(), &settings)?;
    let prompt = fetch_pictures(&app, guard.client, prompt).await?;
    let constraints = constraints.compile(&app, guard.client).await?;
    let cost = cost_of(room.bytes, prompt.pictures().len());
    let prompts = run_blocking(&app, guard.client, cost, move |app| app.prompts.prepare(prompt)).await?;
    drop(room);
    let tokens: Vec<usize> = prompts.iter().map(|prompt| prompt.token_ids.len()).collect();
    app.defaults.check_response_size(&settings, options.kind, &tokens)?;
    let may_restart = !options.stream;
    let generation = Generation::start(&app, settings, constraints, prompts, may_restart, guard).await?;
    let writer = Writer::new(generation, options);
    if may_restart { writer.whole().await } else { writer.stream().await }
}
