//! Work that takes the processor or other servers a while, away from the network's threads and in fair order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::http::StatusCode;

use super::app::App;
use super::engine_loop::fair::{Client, FairSemaphore};
use super::error::ApiError;
use super::request::prompt_input::PromptInput;

/// Work on a request counts as small up to this many bytes.
pub const SMALL_WORK_BYTES: u64 = 128 << 10;
/// Bytes that a picture counts for.
const PICTURE_COST: u64 = 1 << 20;

/// Runs what takes the processor a while away from the network's threads, as many at once as there are cores, and one more that is small. A
/// panic in it fails this request with 500; the server goes on.
pub async fn run_blocking<T: Send + 'static>(
    app: &Arc<App>,
    client: Client,
    cost: u64,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    on_thread(app, &app.preparing, (client, cost), work).await
}

/// Runs work of a client as [`run_blocking`] does, under another semaphore.
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

/// Fetches pictures that lie on the network, so that the request itself holds them. That takes no processor, but a while; a few requests do it
/// at once.
pub async fn fetch_pictures(app: &Arc<App>, client: Client, mut input: PromptInput) -> Result<PromptInput, ApiError> {
    let pictures = input.remote_pictures().count() as u64;
    if pictures == 0 {
        return Ok(input);
    }
    on_thread(app, &app.fetching, (client, pictures), move |app| {
        app.prompts.fetch(&mut input)?;
        Ok(input)
    })
    .await
}

/// What making a request's prompts ready costs: its bytes, and more for each picture.
pub fn cost_of(bytes: u64, pictures: usize) -> u64 {
    bytes + PICTURE_COST * pictures as u64
}
