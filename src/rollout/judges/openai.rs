//! A judge behind an [`Endpoint`].

use serde_json::{Value, json};

use super::counter::Counter;
use super::endpoint::Endpoint;
use super::settings::JudgeSettings;
use crate::rollout::judge::{Judge, JudgeCounts, JudgeError, Question};
use crate::rollout::registry::RegistryError;

/// The judge: one endpoint.
pub struct OpenAiJudge {
    endpoint: Endpoint,
    counter: Counter,
}

impl OpenAiJudge {
    /// A judge that has not been asked yet.
    ///
    /// # Errors
    /// As [`Endpoint::new`].
    pub fn new(settings: &JudgeSettings) -> Result<Self, RegistryError> {
        let endpoint = Endpoint::new(settings).map_err(RegistryError::Judge)?;
        Ok(Self { endpoint, counter: Counter::default() })
    }
}

impl Judge for OpenAiJudge {
    fn parallel_requests(&self) -> usize {
        self.endpoint.parallel_requests()
    }

    fn answer(&self, question: &Question<'_>) -> Result<String, JudgeError> {
        let message = |(role, text): &(&str, String)| json!({"role": role, "content": text});
        let messages: Value = question.messages.iter().map(message).collect();
        let outcome = self.endpoint.answer(&messages, question);
        self.counter.note(&outcome);
        outcome.reply
    }

    fn take_counts(&self) -> JudgeCounts {
        self.counter.take()
    }
}
