//! A judge behind an [`Endpoint`].

use serde_json::json;

use super::endpoint::{Endpoint, EndpointSettings};
use crate::rollout::judge::{Judge, JudgeError};
use crate::rollout::registry::RegistryError;

/// The judge: one endpoint.
pub struct OpenAiJudge(Endpoint);

impl OpenAiJudge {
    /// A judge that has not been asked yet.
    ///
    /// # Errors
    /// As [`Endpoint::new`].
    pub fn new(settings: &EndpointSettings) -> Result<Self, RegistryError> {
        Endpoint::new(settings).map(Self).map_err(RegistryError::Judge)
    }
}

impl Judge for OpenAiJudge {
    fn parallel_requests(&self) -> usize {
        self.0.parallel_requests()
    }

    fn ask(&self, system: &str, user: &str) -> Result<String, JudgeError> {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        self.0.ask(&json!([message("system", system), message("user", user)]))
    }
}
