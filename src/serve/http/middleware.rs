//! What every request passes before its route: the checks of access, and the admission of those that generate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::{Sender, is_of_admins};
use super::connections::Peer;
use crate::serve::admission::RequestGuard;
use crate::serve::app::App;
use crate::serve::engine_loop::fair::Client;
use crate::serve::error::ApiError;

/// Routes that need no key: whether the server lives is no secret.
const OPEN_ROUTES: [&str; 2] = ["/health", "/ping"];
/// What a page of an allowed origin may do.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, OPTIONS");
/// Headers that it may send where it does not say which.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
/// Headers of answers that it may also read.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("retry-after");
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// Routes whose requests wait for the engine.
const GENERATING_ROUTES: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/inference/v1/generate"];

/// Lets in who has the key, and no page of a foreign origin. Plain cross-site GET navigations pass: without CORS headers a page cannot read
/// the answer.
pub async fn check_access(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let access = &app.access;
    let headers = request.headers();
    let path = request.uri().path();
    let is_admin = is_of_admins(path);
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD) && !headers.contains_key(header::ORIGIN);
    let origin = match access.sender(headers, request.uri()) {
        Err(error) => return error.into_response(),
        Ok(Sender::Own) => None,
        Ok(Sender::Allowed(origin)) if !is_admin => Some(access.allowed_origin(origin)),
        Ok(Sender::Foreign) if is_read && !is_admin => None,
        Ok(_) => return vary(foreign_origin(path).into_response()),
    };
    if let Some(origin) = &origin
        && request.method() == Method::OPTIONS
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        return shared(preflight(headers), origin.clone());
    }
    let key = access.key(headers);
    let is_open = access.api_keys.is_empty() || OPEN_ROUTES.contains(&path);
    let response = if !is_open && key.is_none() {
        let message = "the API key is missing or wrong; send the header `Authorization: Bearer KEY` with the key that the server was \
                       started with";
        ApiError::status(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response()
    } else {
        let address = request.extensions().get().map(|Peer(address)| *address);
        let number = app.requests.fetch_add(1, Ordering::Relaxed);
        let client = Client::new(key.filter(|_| access.api_keys.len() > 1), address, number);
        request.extensions_mut().insert(client);
        next.run(request).await
    };
    match origin {
        Some(origin) => shared(response, origin),
        None => vary(response),
    }
}

fn foreign_origin(path: &str) -> ApiError {
    let message = match is_of_admins(path) {
        true => format!("{path} is not for pages of other origins; call it from a program"),
        false => {
            "pages of this origin may not use the server; start it with --allowed-origins and the origin".to_owned()
        }
    };
    ApiError::status(StatusCode::FORBIDDEN, "foreign_origin", message)
}

/// What a browser asks before it lets a page send a request.
fn preflight(headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let own = response.headers_mut();
    own.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    own.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(HEADERS));
    own.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if headers.contains_key(REQUEST_PRIVATE_NETWORK) {
        own.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    response
}

/// An answer that a page of an origin may read.
fn shared(response: Response, origin: HeaderValue) -> Response {
    let mut response = vary(response);
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    response
}

/// Answers differ by origin: a cache must not mix them.
fn vary(mut response: Response) -> Response {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    response
}

/// Gives generating requests a place in the admission queue. A request that has to give way gets an error.
pub async fn admit(State(app): State<Arc<App>>, client: Client, mut request: Request, next: Next) -> Response {
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
