//! Work that takes the processor or other servers a while, away from the network's threads and in fair order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::http::StatusCode;

use super::app::App;
use super::error::ApiError;
use super::fair::{Client, FairSemaphore};
use super::openai::Request;
use super::prompts::remote_pictures;

/// Work on a request counts as small up to this many bytes.
pub const SMALL_WORK_BYTES: u64 = 128 << 10;
/// Bytes that a picture counts for.
const PICTURE_COST: u64 = 1 << 20;

/// Runs what takes the processor a while away from the network's threads, as many at once as there are cores, and one more that is small. A
/// panic in it fails this request with 500; the server goes on.
pub async fn prepare<T: Send + 'static>(
    app: &Arc<App>,
    client: Client,
    cost: u64,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    on_thread(app, &app.preparing, (client, cost), work).await
}

/// Runs work of a client as [`prepare`] does, under another semaphore.
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
