//! The routes of training frameworks: weights taken over from a folder, prompts made here and answered later, what TRL asks a server first.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::access::{Bodiless, TRANSFER_ROUTES};
use super::admission::RequestGuard;
use super::answers::ResponseShape;
use super::app::App;
use super::blocking::{cost_of, fetch, fetch_pictures, prepare};
use super::body::JsonBody;
use super::completions::{answer, read_constraints};
use super::constraints::ToolChoice;
use super::engine_loop::{Command, Running};
use super::error::ApiError;
use super::fair::Client;
use super::fields::{object, optional_object, whole_number, wholes, with_whole_floats};
use super::images::is_remote;
use super::openai::{Request, ResponseKind};
use super::prompts::picture_count;
use super::sampling::check;
use crate::checkpoint::folder;
use crate::checkpoint::weights::ReloadError;
use crate::prompt::{PixelLimits, PreparedImage, Processor, Prompt};

/// Bytes of a name that a client gives its request.
const REQUEST_ID_BYTES_MAX: usize = 256;

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
    forgotten.await.map_err(|_| ApiError::failed("the engine is gone"))?;
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
    running: Running,
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
    let reloaded = reloaded.await.map_err(|_| ApiError::failed("the engine is gone"))?;
    let version = reloaded.map_err(|error| match error {
        ReloadError::Refused(error) => ApiError::field(param, format!("cannot be used: {error}")),
        ReloadError::Incomplete(error) => ApiError::incomplete_weights(&error.to_string()),
    })?;
    tracing::info!("weights of {} are version {version}", dir.display());
    Ok(Json(
        json!({"success": true, "message": format!("weights read from {}", dir.display()), "weights_version": version}),
    ))
}

/// A conversation's pictures, on their way through a client that only hands them back.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(expecting = "an object")]
struct Features {
    images: Vec<String>,
    /// The sizes that the messages ask for them, in the messages' own keys or null; of all or of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    image_sizes: Vec<Value>,
    #[serde(default, deserialize_with = "with_whole_floats")]
    mm_processor_kwargs: Option<PixelLimits>,
    /// Where they are in the prompt, for clients that look; when handed back, the token ids say it.
    #[serde(default, deserialize_with = "object")]
    mm_placeholders: Placeholders,
}

/// Runs of picture placeholders.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(expecting = "an object")]
struct Placeholders {
    image: Vec<Run>,
}

/// The placeholders of one picture.
#[derive(Debug, Deserialize, Serialize)]
#[serde(expecting = "an object with offset and length")]
struct Run {
    #[serde(deserialize_with = "whole_number")]
    offset: usize,
    #[serde(deserialize_with = "whole_number")]
    length: usize,
}

impl Placeholders {
    /// Those of a prompt's pictures.
    fn of(prompt: &Prompt, processor: &Processor) -> Placeholders {
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
}

async fn render(
    State(app): State<Arc<App>>,
    client: Client,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Json<Value>, ApiError> {
    app.model_name(request.model.as_deref())?;
    let request = fetch_pictures(&app, client, request).await?;
    let cost = cost_of(room.bytes, picture_count(&request));
    let (images, image_sizes) = app.prompts.features(&request)?;
    let mm_processor_kwargs = request.mm_processor_kwargs;
    let prompt = prepare(&app, client, cost, move |app| app.prompts.chat(&request)).await?;
    let mm_placeholders = Placeholders::of(&prompt, &app.prompts.processor);
    let features =
        (!images.is_empty()).then_some(Features { images, image_sizes, mm_processor_kwargs, mm_placeholders });
    Ok(Json(json!({"token_ids": prompt.token_ids, "features": features})))
}

/// Token ids to go on from.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Generate {
    model: Option<String>,
    request_id: Option<String>,
    #[serde(deserialize_with = "wholes")]
    token_ids: Vec<u32>,
    #[serde(default, deserialize_with = "optional_object")]
    features: Option<Features>,
    #[serde(default, deserialize_with = "object")]
    sampling_params: Request,
}

async fn generate(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(generate, room): JsonBody<Generate>,
) -> Result<Response, ApiError> {
    let Generate { model, request_id, token_ids, features, sampling_params } = generate;
    let id_bytes = request_id.as_ref().map_or(0, String::len);
    check(
        "request_id",
        format!("{id_bytes} bytes long"),
        id_bytes <= REQUEST_ID_BYTES_MAX,
        &format!("at most {REQUEST_ID_BYTES_MAX}"),
    )?;
    let request = Request { model, stream: None, ..sampling_params };
    let features = fetch_features(&app, guard.client, features.unwrap_or_default()).await?;
    let make = move |app: &App, _: &Request| {
        let images = app.prompts.load(&features.images, &features.image_sizes, features.mm_processor_kwargs)?;
        Ok(vec![app.prompts.tokens("token_ids", token_ids, images)?])
    };
    let no_tools = |_: &Request| Ok(ToolChoice::None);
    let (request, _, requested) = read_constraints(&app, (guard.client, room.bytes), request, no_tools).await?;
    let form = ResponseShape { kind: ResponseKind::Tokens, ..ResponseShape::default() };
    answer(app, guard, (request, requested, room), request_id, form, make).await
}

/// Fetches pictures that lie on the network.
async fn fetch_features(app: &Arc<App>, client: Client, mut features: Features) -> Result<Features, ApiError> {
    let pictures = features.images.iter().filter(|address| is_remote(address)).count();
    if pictures == 0 {
        return Ok(features);
    }
    fetch(app, (client, pictures), move |app| {
        let remote = features.images.iter_mut().filter(|address| is_remote(address));
        app.prompts.fetch(remote.map(|address| (address, "features".to_owned())))?;
        Ok(features)
    })
    .await
}
