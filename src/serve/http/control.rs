//! The routes of training frameworks: weights taken over from a folder, prompts made here and answered later, what TRL asks a server first.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::access::{Bodiless, TRANSFER_ROUTES};
use super::body::JsonBody;
use super::completions::{answer, validate};
use crate::checkpoint::folder;
use crate::checkpoint::weights::ReloadError;
use crate::prompt::{PreparedImage, Processor, Prompt};
use crate::serve::admission::RequestGuard;
use crate::serve::app::App;
use crate::serve::blocking::{cost_of, fetch_pictures, run_blocking};
use crate::serve::engine_loop::fair::Client;
use crate::serve::engine_loop::{Command, InFlightPolicy};
use crate::serve::error::ApiError;
use crate::serve::request::ValidRequest;
use crate::serve::request::prompt_input::PromptInput;
use crate::serve::request::wire::{Features, Placeholders, Request, Run, TokensRequest};

/// Routes for training frameworks: weight updates, prompts that are made here, generation from token ids.
pub fn routes() -> Router<Arc<App>> {
    let routes = Router::new()
        .route("/server_info", get(server_info))
        .route("/get_world_size", get(world_size))
        .route("/reset_prefix_cache", post(reset_prefix_cache))
        .route("/update_weights", post(update_weights))
        .route("/update_weights_from_disk", post(update_weights))
        .route("/v1/chat/completions/render", post(render))
        .route("/inference/v1/generate", post(generate));
    TRANSFER_ROUTES.iter().fold(routes, |routes, route| routes.route(route, post(no_transfer)))
}

async fn server_info(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "weights_version": app.metrics.weights_version(),
        "vllm_config": {
            "model_config": {
                "served_model_name": app.names,
                "max_model_len": app.defaults.context_tokens,
                "logprobs_mode": app.defaults.logprobs_mode.name(),
            },
            "weight_transfer_config": {"backend": "disk"},
        },
    }))
}

async fn world_size() -> Json<Value> {
    Json(json!({"world_size": 1}))
}

async fn no_transfer() -> ApiError {
    let message = "weights are not transferred over NCCL here; save them to a folder that this machine can read, and send it as \
                   `weight_dir` to POST /update_weights";
    ApiError::status(StatusCode::NOT_IMPLEMENTED, "no_weight_transfer", message)
}

async fn reset_prefix_cache(State(app): State<Arc<App>>, _: Bodiless) -> Result<Json<Value>, ApiError> {
    let (reply, forgotten) = oneshot::channel();
    app.send(Command::ResetPrefixCache(reply))?;
    forgotten.await.map_err(|_| ApiError::engine_gone())?;
    Ok(Json(json!({"success": true})))
}

/// Where weights lie, in the words of prime-rl and of SGLang; or how they would be transferred.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct UpdateWeights {
    weight_dir: Option<String>,
    model_path: Option<String>,
    update_info: Option<Value>,
    /// What becomes of answers under way.
    #[serde(default)]
    running: InFlightPolicy,
}

async fn update_weights(
    State(app): State<Arc<App>>,
    JsonBody(update, _room): JsonBody<UpdateWeights>,
) -> Result<Json<Value>, ApiError> {
    let (param, dir) = match (update.weight_dir, update.model_path) {
        (Some(dir), None) => ("weight_dir", dir),
        (None, Some(dir)) => ("model_path", dir),
        (None, None) if update.update_info.is_some() => return Err(no_transfer().await),
        _ => {
            return Err(ApiError::field(
                "weight_dir",
                "is missing; give the folder of a checkpoint as it or as `model_path`, not both",
            ));
        }
    };
    let dir: PathBuf =
        folder::resolve(&dir).map_err(|error| ApiError::field(param, format!("cannot be used: {error}")))?;
    let (reply, reloaded) = oneshot::channel();
    app.send(Command::UpdateWeights(dir.clone(), update.running, reply))?;
    let reloaded = reloaded.await.map_err(|_| ApiError::engine_gone())?;
    let version = reloaded.map_err(|error| match error {
        ReloadError::Refused(error) => ApiError::field(param, format!("cannot be used: {error}")),
        ReloadError::Incomplete(error) => ApiError::incomplete_weights(&error.to_string()),
    })?;
    tracing::info!("weights of {} are version {version}", dir.display());
    Ok(Json(
        json!({"success": true, "message": format!("weights read from {}", dir.display()), "weights_version": version}),
    ))
}

/// The runs of placeholders of a prompt's pictures.
fn placeholders(prompt: &Prompt, processor: &Processor) -> Placeholders {
    let pad = processor.special_ids().image_pad;
    let mut offset = 0;
    let run = |image: &Arc<PreparedImage>| {
        offset += prompt.token_ids[offset..].iter().take_while(|id| **id != pad).count();
        let run = Run { offset, length: processor.image_tokens(image) };
        offset += run.length;
        run
    };
    Placeholders { image: prompt.images.iter().map(run).collect() }
}

async fn render(
    State(app): State<Arc<App>>,
    client: Client,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Json<Value>, ApiError> {
    app.model_name(request.model.as_deref())?;
    let mm_processor_kwargs = request.mm_processor_kwargs;
    let input = validate(&app, client, &room, |app| PromptInput::conversation(request, &app.prompts.limits)).await?;
    let input = fetch_pictures(&app, client, input).await?;
    let mut images: Vec<String> = Vec::new();
    let mut image_sizes: Vec<Value> = Vec::new();
    for picture in input.pictures() {
        images.push(picture.address.clone());
        image_sizes.push(json!(picture.size));
    }
    if image_sizes.iter().all(Value::is_null) {
        image_sizes.clear();
    }
    let cost = cost_of(room.bytes, images.len());
    let prompts = run_blocking(&app, client, cost, move |app| app.prompts.prepare(input)).await?;
    let prompt = &prompts[0];
    let mm_placeholders = placeholders(prompt, &app.prompts.processor);
    let features =
        (!images.is_empty()).then_some(Features { images, image_sizes, mm_processor_kwargs, mm_placeholders });
    Ok(Json(json!({"token_ids": prompt.token_ids, "features": features})))
}

async fn generate(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(request, room): JsonBody<TokensRequest>,
) -> Result<Response, ApiError> {
    let request = validate(&app, guard.client, &room, |app| ValidRequest::tokens(request, app)).await?;
    answer(app, guard, request, room).await
}
