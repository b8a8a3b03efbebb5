//! Server-sent events.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde::Serialize;

/// What ends a stream of OpenAI's API.
pub const DONE: &str = "data: [DONE]\n\n";

/// What events come from.
pub trait EventSource: Send + 'static {
    /// The next events, and whether more follow.
    fn next_events(&mut self) -> impl Future<Output = (String, bool)> + Send;
}

/// An event with this content.
pub fn event(content: &impl Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(content).expect("wire types are JSON"))
}

/// A response of the first events and of all that come from the source. The source is dropped when its last event is on its way.
pub fn stream_events(first: String, source: impl EventSource) -> Response {
    let events = stream::unfold((Some(first), Some(source)), |(first, source)| async move {
        if let Some(first) = first {
            return Some((Ok::<_, Infallible>(first), (None, source)));
        }
        let mut source = source?;
        let (events, goes_on) = source.next_events().await;
        Some((Ok(events), (None, goes_on.then_some(source))))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
