//! The routes: who may come in, how a body is read, and what each address answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, extract};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::access::{check_content_type, guard};
use super::answers::{Form, Kind, ToolCalls, Writer};
use super::constraints::{RequestedConstraints, ToolChoice};
use super::error::ApiError;
use super::fair::{Client, FairSemaphore, Place};
use super::fields::{Object, wholes};
use super::generation::Generation;
use super::metrics::{Active, Waiting};
use super::openai::Request;
use super::prompts::{self, picture_count, remote_pictures};
use super::sampling::{Settings, check};
use super::{App, agent, control};
use crate::files::json::{in_json_words, is_of_value, shorten};
use crate::files::lines::{VALUES_MAX, count_values};
use crate::prompt::Prompt;

/// The largest body of a request.
const BODY_BYTES_MAX: usize = 64 << 20;
/// So much of a larger one is read over.
const READ_OVER_MAX: usize = 8 * BODY_BYTES_MAX;
/// A body that needs no room of its own: as many of these as requests may wait are no burden.
const SMALL_BODY_BYTES: usize = 1 << 20;
/// Room for larger ones together.
pub const BODIES_KIB_MAX: usize = 512 << 10;
/// A body comes at this rate at least.
const BODY_BYTES_PER_SECOND: f64 = 65_536.0;
/// While others wait for the room that a body takes up, it comes at this rate, and does not stand still for so long.
const WANTED_BYTES_PER_SECOND: f64 = 1_048_576.0;
const WANTED_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether others wait.
const WANTED_INTERVAL: Duration = Duration::from_millis(250);
/// Bytes of a body that make a token, about.
const BYTES_PER_TOKEN: u64 = 4;
/// Beyond this size reading JSON takes long enough to be done elsewhere.
const QUICK_JSON_BYTES: usize = 64 << 10;
/// Work on a request counts as small up to so many bytes; a picture counts for more.
pub const SMALL_WORK_BYTES: u64 = 128 << 10;
const PICTURE_COST: u64 = 1 << 20;
/// Fields of a body that nobody knows and that are remembered.
const UNKNOWN_FIELDS_MAX: usize = 32;
/// Token ids that are turned into text at a time, if the context is not larger.
const DETOKENIZED_MAX: usize = 65_536;

/// Routes whose requests wait for the engine.
const GENERATING_ROUTES: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/inference/v1/generate"];

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
        .layer(from_fn_with_state(app.clone(), guard))
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

/// A body of JSON, and the room that it takes up until its pictures are decoded.
pub struct JsonBody<T>(pub T, pub Room);

/// What a body takes up.
#[derive(Debug)]
pub struct Room {
    /// Length of the body, as it was received.
    pub bytes: u64,
    /// Room for a large one; none is needed for a small one.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: extract::Request, app: &Arc<App>) -> Result<JsonBody<T>, ApiError> {
        check_content_type(request.headers())?;
        let route = request.uri().path().to_owned();
        let client = request.extensions().get().copied().unwrap_or_default();
        let expects = request.headers().contains_key(header::EXPECT);
        let (bytes, room) = read(request.into_body(), expects, app).await?;
        let (value, unknown) = match bytes.len() {
            ..QUICK_JSON_BYTES => parse(&bytes)?,
            size => prepare(app, client, size as u64, move |_| parse(&bytes)).await?,
        };
        app.note_unknown(&route, unknown);
        Ok(JsonBody(value, room))
    }
}

/// Reads a body. Of one that is too large the rest is read over, as far as it is not much: a client that is still sending would not hear the
/// answer. One that `expects` a word before it sends hears at once.
async fn read(body: Body, expects: bool, app: &App) -> Result<(Vec<u8>, Room), ApiError> {
    let announced = body.size_hint().exact().map_or(BODY_BYTES_MAX, |bytes| bytes as usize);
    if announced > READ_OVER_MAX || expects && announced > BODY_BYTES_MAX {
        return Err(body_too_large());
    }
    let announced = announced.min(BODY_BYTES_MAX);
    let (mut bytes, mut size, mut room) = (Vec::new(), 0, None);
    let mut began = Instant::now();
    let mut pieces = body.into_data_stream();
    loop {
        let last = Instant::now();
        let until = |limit: Duration, rate: f64| {
            // A server that goes down waits for what is on its way, and for nobody who stands still.
            let limit = if app.is_draining() { limit.min(WANTED_TIMEOUT) } else { limit };
            (began + limit + Duration::from_secs_f64(size as f64 / rate)).min(last + limit)
        };
        let piece = loop {
            let until = match room.is_some() && app.bodies_wanted.load(Ordering::Relaxed) > 0 {
                true => until(WANTED_TIMEOUT.min(app.client_timeout), WANTED_BYTES_PER_SECOND),
                false => until(app.client_timeout, BODY_BYTES_PER_SECOND),
            };
            match timeout_at(until.min(Instant::now() + WANTED_INTERVAL), pieces.next()).await {
                Ok(piece) => break piece,
                Err(_) if Instant::now() >= until => return Err(ApiError::slow_body(size)),
                Err(_) => {}
            }
        };
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| ApiError::bad(format!("the body cannot be read: {error}")))?;
        size += piece.len();
        if size > SMALL_BODY_BYTES && room.is_none() {
            let waiting = Instant::now();
            room = Some(app.room(announced).await?);
            began += waiting.elapsed();
        }
        if size <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&piece);
        } else {
            bytes = Vec::new();
        }
        if size > READ_OVER_MAX {
            break;
        }
    }
    if size > BODY_BYTES_MAX {
        return Err(body_too_large());
    }
    let room = Room { bytes: bytes.len() as u64, _permit: room };
    Ok((bytes, room))
}

fn body_too_large() -> ApiError {
    let message = format!("the body has more than {BODY_BYTES_MAX} bytes; send fewer or smaller pictures");
    ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

/// Reads JSON; also the fields that the type does not know.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Vec<String>), ApiError> {
    if count_values(bytes) > VALUES_MAX {
        return Err(ApiError::bad(format!("the body has more than {VALUES_MAX} values; send fewer at a time")));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let (mut track, mut unknown) = (serde_path_to_error::Track::new(), Vec::new());
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let parsed: Result<Object<T>, _> = serde_ignored::deserialize(tracked, |path| {
        if unknown.len() < UNKNOWN_FIELDS_MAX {
            unknown.push(shorten(&path.to_string()));
        }
    });
    let wrong = |error: serde_json::Error, path: String| match is_of_value(&error) && path != "." {
        true => ApiError::field(&shorten(&path), in_json_words(&error)),
        false => ApiError::bad(format!("the body {}", in_json_words(&error))),
    };
    let value = parsed.map_err(|error| wrong(error, track.path().to_string()))?;
    json.end().map_err(|error| wrong(error, ".".to_owned()))?;
    Ok((value.0, unknown))
}

/// Counts one who waits for room, as long as it lives.
struct Wanted<'a>(&'a AtomicUsize);

impl Wanted<'_> {
    fn new(count: &AtomicUsize) -> Wanted<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Wanted(count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl App {
    /// Room for a large body.
    ///
    /// # Errors
    /// When others leave none for too long.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let wanted = Wanted::new(&self.bodies_wanted);
        let room = self.bodies.clone().acquire_many_owned(bytes.div_ceil(1 << 10) as u32);
        let room = timeout(self.client_timeout, room).await;
        drop(wanted);
        room.ok().and_then(Result::ok).ok_or_else(ApiError::no_room)
    }

    /// Says once what nobody knows.
    fn note_unknown(&self, route: &str, fields: Vec<String>) {
        const REMEMBERED: usize = 256;
        let mut known = self.unknown_fields.lock().unwrap_or_else(PoisonError::into_inner);
        for field in fields {
            if known.len() < REMEMBERED && known.insert(field.clone()) {
                tracing::warn!("{route}: the field {field:?} is not known and has no effect; this is said once");
            }
        }
    }

    /// The name that a request calls the model by.
    ///
    /// # Errors
    /// When it is another's.
    pub fn model_name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(self.names[0].clone()) };
        match self.names.iter().find(|name| *name == asked) {
            Some(name) => Ok(name.clone()),
            None => {
                let message =
                    format!("there is no model `{}`; this server has `{}`", shorten(asked), self.names.join("`, `"));
                Err(ApiError::status(StatusCode::NOT_FOUND, "model_not_found", message))
            }
        }
    }
}

/// Runs what takes the processor a while away from the network's threads, as many at once as there are cores, and one that is small besides. A
/// fault in it is the request's, not the server's.
pub async fn prepare<T: Send + 'static>(
    app: &Arc<App>,
    client: Client,
    cost: u64,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    on_thread(app, &app.preparing, (client, cost), work).await
}

/// Runs work of a client, which costs so much, as [`prepare`] does, under another semaphore.
pub async fn on_thread<T: Send + 'static>(
    app: &Arc<App>,
    semaphore: &Arc<FairSemaphore>,
    (client, cost): (Client, u64),
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed =
        || ApiError::status(StatusCode::INTERNAL_SERVER_ERROR, "prompt_failed", "the prompt could not be made ready");
    let permit = semaphore.acquire(client, cost).await.ok_or_else(failed)?;
    let app = app.clone();
    let work = move || {
        // It is given back when the work has ended, even if the client has left before.
        let _permit = permit;
        catch_unwind(AssertUnwindSafe(|| work(&app)))
    };
    tokio::task::spawn_blocking(work).await.ok().and_then(Result::ok).unwrap_or_else(|| Err(failed()))
}

/// Fetches pictures that lie on the network, so that the request itself holds them. That takes no processor, but a while.
pub async fn fetch_pictures(app: &Arc<App>, client: Client, mut request: Request) -> Result<Request, ApiError> {
    let pictures = remote_pictures(&mut request).count();
    if pictures == 0 {
        return Ok(request);
    }
    fetch(app, (client, pictures), move |app| {
        app.prompts.fetch(remote_pictures(&mut request))?;
        Ok(request)
    })
    .await
}

/// Runs what waits for other servers, for a few requests at once.
pub async fn fetch<T: Send + 'static>(
    app: &Arc<App>,
    (client, pictures): (Client, usize),
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    on_thread(app, &app.fetching, (client, pictures as u64), work).await
}

/// What making a request's prompts ready costs: its bytes, and more for each picture.
pub fn cost_of(bytes: u64, pictures: usize) -> u64 {
    bytes + PICTURE_COST * pictures as u64
}

/// A generating request that was let in: before its body is read it has a place in the admission queue.
#[derive(Clone, Debug)]
pub struct RequestGuard {
    /// Whose it is.
    pub client: Client,
    /// The server does not go down before it is answered.
    pub active: Arc<Active>,
    /// It counts as waiting until it is handed over.
    pub waiting: Arc<Waiting>,
    /// It gives way to others until the engine has begun with it.
    pub place: Arc<Place>,
}

/// Lets in those whose requests wait for the engine, as far as there are places; where there are none, whoever has to give way is told.
async fn admit(State(app): State<Arc<App>>, client: Client, mut request: extract::Request, next: Next) -> Response {
    if request.method() != Method::POST || !GENERATING_ROUTES.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let active = Arc::new(app.metrics.begin());
    if let Err(error) = app.check_ready() {
        return error.into_response();
    }
    let (place, gone) = app.admission.enter(client.tenant);
    let waiting = Arc::new(app.metrics.wait());
    request.extensions_mut().insert(RequestGuard { client, active, waiting, place: Arc::new(place) });
    tokio::select! {
        response = next.run(request) => response,
        Ok(()) = gone => ApiError::too_many(app.admission.count()).into_response(),
    }
}

impl<S: Sync> FromRequestParts<S> for RequestGuard {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<RequestGuard, ApiError> {
        parts.extensions.remove().ok_or_else(|| ApiError::failed("the request came past the admission queue"))
    }
}

impl RequestGuard {
    /// Says what the request costs, now that its body is here: the tokens that it brings, about, and those that it asks for.
    ///
    /// # Errors
    /// When too many wait, and it is this one that gives way.
    pub fn weigh(&self, app: &App, bytes: u64, prompts: usize, settings: &Settings) -> Result<(), ApiError> {
        let answers = prompts.saturating_mul(settings.n);
        let answer = app.defaults.answer_tokens(settings, 0).saturating_mul(answers) as u64;
        self.place.wait((bytes / BYTES_PER_TOKEN).saturating_add(answer)).map_err(ApiError::too_many)
    }
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

async fn chat_completions(
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
    let form = Form { kind: Kind::Chat, tool_calls: ToolCalls::of(&request, &tools), ..form(&request) };
    answer(app, guard, (request, requested, room), None, form, |app, request| Ok(vec![app.prompts.chat(request)?]))
        .await
}

async fn completions(
    State(app): State<Arc<App>>,
    guard: RequestGuard,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Response, ApiError> {
    let form = Form { kind: Kind::Text, echo: request.echo.unwrap_or(false), ..form(&request) };
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

fn form(request: &Request) -> Form {
    let include_usage = request.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    Form { include_usage, ..Form::default() }
}

/// Answers a request whose prompts `make` makes, under the constraints that it requested. It has a name of its own unless it brings `id`.
/// Once there are prompts, the request, which may hold large pictures, is gone.
pub async fn answer(
    app: Arc<App>,
    guard: RequestGuard,
    (request, requested, room): (Request, RequestedConstraints, Room),
    id: Option<String>,
    form: Form,
    make: impl FnOnce(&App, &Request) -> Result<Vec<Prompt>, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let model = app.model_name(request.model.as_deref())?;
    let mut settings = app.defaults.settings(&request)?;
    if form.kind != Kind::Text && settings.echo {
        return Err(ApiError::field(
            "echo",
            "has no effect on this route; leave it out, or send the prompt to /v1/completions",
        ));
    }
    app.defaults.check_answers(prompts::count(&request), &settings)?;
    settings.token_ids |= form.kind == Kind::Tokens;
    settings.tokens_as_ids |= form.kind == Kind::Tokens;
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
    let id = id.unwrap_or_else(|| app.request_id(if form.kind == Kind::Chat { "chatcmpl" } else { "cmpl" }));
    let writer = Writer::new(generation, form, id, model);
    if is_stream { writer.stream().await } else { writer.whole().await }
}

async fn tokenize(
    State(app): State<Arc<App>>,
    client: Client,
    JsonBody(request, room): JsonBody<Request>,
) -> Result<Json<Value>, ApiError> {
    app.model_name(request.model.as_deref())?;
    let request = fetch_pictures(&app, client, request).await?;
    let cost = cost_of(room.bytes, picture_count(&request));
    let wants_texts = request.return_token_strs.unwrap_or(false);
    let make = move |app: &App| match request.messages {
        Some(_) => app.prompts.chat(&request),
        None => match app.prompts.completion(&request)?.as_slice() {
            [prompt] => Ok(prompt.clone()),
            several => Err(ApiError::field("prompt", format!("is a list of {}; give one text", several.len()))),
        },
    };
    let tokens = prepare(&app, client, cost, make).await?.token_ids;
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
