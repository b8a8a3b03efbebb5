//! The contract of a judge: a model that rewards ask where no rule can say.

use thiserror::Error;

/// Answers questions of rewards. Shared by the worker threads that score.
pub trait Judge: Send + Sync {
    /// Questions that may be under way at a time.
    fn parallel_requests(&self) -> usize;

    /// The reply to a user's message under a system message. Waits for it.
    ///
    /// # Errors
    /// When there is no reply.
    fn ask(&self, system: &str, user: &str) -> Result<String, JudgeError>;
}

/// A judge that did not reply, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the judge did not reply: {0}")]
pub struct JudgeError(pub String);

/// The first characters of a reply, for messages.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}
