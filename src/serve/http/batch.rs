//! The server's routes without a network: calls are answered in this process, so that a file of them gets the replies that a client would.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tower::ServiceExt;

use super::routes;
use crate::serve::error::ApiError;
use crate::serve::{App, ServeError, ServerConfig, with_app};

/// A call of a route by POST.
#[derive(Clone, Debug)]
pub struct Call {
    /// The route, for example `/v1/chat/completions`.
    pub url: String,
    /// What it is asked.
    pub body: Value,
}

/// What came of a call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The answer, or OpenAI's form of an error.
    pub body: Value,
}

/// Answers the calls that `call(number)` makes, `in_flight` at a time. `tell` gets each reply when it is there, not in order; when it returns
/// false the rest is not answered.
///
/// # Errors
/// When the engine failed.
pub fn answer_calls(
    config: ServerConfig,
    numbers: std::ops::Range<usize>,
    in_flight: usize,
    call: impl Fn(usize) -> Result<Call, ApiError> + Send + Sync + 'static,
    tell: impl FnMut(usize, Reply) -> bool + Send,
) -> Result<(), ServeError> {
    with_app(config, move |app| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(answer_all(app, numbers, in_flight, Arc::new(call), tell));
        Ok(())
    })
}

async fn answer_all(
    app: App,
    numbers: std::ops::Range<usize>,
    in_flight: usize,
    call: Arc<impl Fn(usize) -> Result<Call, ApiError> + Send + Sync + 'static>,
    mut tell: impl FnMut(usize, Reply) -> bool,
) {
    let router = routes::router(Arc::new(app));
    let answer = |number: usize| {
        let (router, call) = (router.clone(), call.clone());
        let work = tokio::spawn(async move {
            match call(number) {
                Ok(call) => answer(router, call).await,
                Err(error) => refusal(&error),
            }
        });
        async move { (number, work.await.unwrap_or_else(|_| refusal(&ApiError::failed("the call panicked")))) }
    };
    let mut replies = std::pin::pin!(stream::iter(numbers).map(answer).buffer_unordered(in_flight));
    while let Some((number, reply)) = replies.next().await {
        if !tell(number, reply) {
            return;
        }
    }
}

async fn answer(router: axum::Router, call: Call) -> Reply {
    let request = Request::post(&call.url).header(header::CONTENT_TYPE, "application/json");
    let request = match request.body(Body::from(call.body.to_string())) {
        Ok(request) => request,
        Err(error) => return refusal(&ApiError::field("url", format!("is {:?}: {error}", call.url))),
    };
    let Ok(response) = router.oneshot(request).await;
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    let body = serde_json::from_slice(&bytes);
    Reply { status, body: body.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())) }
}

fn refusal(error: &ApiError) -> Reply {
    Reply { status: error.status_code().as_u16(), body: error.body() }
}
