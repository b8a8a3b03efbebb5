//! A generating request between its head and the moment that the engine opens its sequences: it waits in the admission queue, and gives way where
//! too many do.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::app::App;
use super::engine_loop::fair::{Client, Place};
use super::error::ApiError;
use super::metrics::{Active, Waiting};
use super::request::settings::Settings;

/// Bytes of a body that make a token, about.
const BYTES_PER_TOKEN: u64 = 4;

/// A generating request that was let in: before its body is read it has a place in the admission queue.
#[derive(Clone, Debug)]
pub struct RequestGuard {
    /// Whose it is.
    pub client: Client,
    /// The server does not shut down before it is answered.
    pub active: Arc<Active>,
    /// It counts as waiting until it is handed over.
    pub waiting: Arc<Waiting>,
    /// It gives way to others until the engine has begun with it.
    pub place: Arc<Place>,
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Client, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
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
