//! How the body of a request is read: at a rate, within a size, as JSON of a type.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{self, FromRequest};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::access::check_content_type;
use crate::files::json::{in_json_words, is_of_value, shorten};
use crate::files::lines::{VALUES_MAX, count_values};
use crate::serve::app::App;
use crate::serve::blocking::run_blocking;
use crate::serve::error::ApiError;
use crate::serve::request::fields::Object;

/// The largest body of a request.
const BODY_BYTES_MAX: usize = 64 << 20;
/// A larger one is drained and discarded up to this size.
const READ_OVER_MAX: usize = 8 * BODY_BYTES_MAX;
/// Bodies up to this size need no memory permit.
const SMALL_BODY_BYTES: usize = 1 << 20;
/// Room for larger ones together.
pub const BODIES_KIB_MAX: usize = 512 << 10;
/// A body comes at this rate at least.
const BODY_BYTES_PER_SECOND: f64 = 65_536.0;
/// While others wait for the room that a body takes up, it comes at this rate at least.
const WANTED_BYTES_PER_SECOND: f64 = 1_048_576.0;
/// Meanwhile it may pause for less than this.
const WANTED_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether others wait.
const WANTED_INTERVAL: Duration = Duration::from_millis(250);
/// Beyond this size reading JSON takes long enough to be done elsewhere.
pub const QUICK_JSON_BYTES: usize = 64 << 10;
/// Fields of a body that nobody knows and that are remembered.
const UNKNOWN_FIELDS_MAX: usize = 32;

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
            size => run_blocking(app, client, size as u64, move |_| parse(&bytes)).await?,
        };
        app.note_unknown(&route, unknown);
        Ok(JsonBody(value, room))
    }
}

/// Reads a body. The rest of one that is too large is drained, if it is not much: a client that is still sending would not hear
/// the answer. One that `expects` a word before it sends hears at once.
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
            // A server that shuts down waits for what is on its way, and not for clients that stall.
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
}
