//! The contract of a judge: a model that rewards ask where no rule can say.

use thiserror::Error;

/// Answers questions of rewards. Shared by the worker threads that score.
pub trait Judge: Send + Sync {
    /// Questions that may be under way at a time.
    fn parallel_requests(&self) -> usize;

    /// A reply that has the question's form. Waits for it.
    ///
    /// # Errors
    /// When there is none, after as many tries as the settings or the question allow.
    fn answer(&self, question: &Question<'_>) -> Result<String, JudgeError>;

    /// The reply to a user's message under a system message, whatever its form. Waits for it.
    ///
    /// # Errors
    /// As [`Judge::answer`].
    fn ask(&self, system: &str, user: &str) -> Result<String, JudgeError> {
        self.answer(&Question::new(system, user))
    }

    /// What was asked since the last call of this; all zeros of a judge that does not count.
    fn take_counts(&self) -> JudgeCounts {
        JudgeCounts::default()
    }
}

/// What a judge is asked.
pub struct Question<'a> {
    /// The conversation: the role and the text of each message.
    pub messages: Vec<(&'static str, String)>,
    /// The temperature of the reply, where the judge's settings give none.
    pub temperature: f64,
    /// Tries after the first, where the judge's settings give none.
    pub max_retries: usize,
    /// Whether a reply has the form that was asked for, or else what is wrong with it; such a reply is asked for again.
    pub form: &'a dyn Fn(&str) -> Result<(), String>,
}

impl Question<'_> {
    /// Temperature 0, three retries, any reply.
    pub fn new(system: &str, user: &str) -> Self {
        let messages = [("system", system), ("user", user)].into_iter().filter(|(_, text)| !text.is_empty());
        Question {
            messages: messages.map(|(role, text)| (role, text.to_owned())).collect(),
            temperature: 0.0,
            max_retries: MAX_RETRIES,
            form: &|_| Ok(()),
        }
    }
}

/// Tries after the first of questions that say nothing else.
pub const MAX_RETRIES: usize = 3;

/// A judge that did not reply, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the judge did not reply: {0}")]
pub struct JudgeError(pub String);

/// What a judge was asked in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JudgeCounts {
    /// Questions that were put to the model.
    pub asked: usize,
    /// Of these, the ones without a reply that can be used.
    pub failed: usize,
    /// Requests that were made again.
    pub retried: usize,
    /// Questions that were answered by the reply to an equal one, and not asked.
    pub cached: usize,
    /// Seconds that the questions of `asked` took, retries and the waits between them included, summed up.
    pub seconds: f64,
    /// The longest of them.
    pub seconds_max: f64,
    /// Why the last of `failed` has no reply.
    pub last_failure: Option<String>,
}

impl JudgeCounts {
    /// Adds what was asked later.
    pub fn add(&mut self, more: JudgeCounts) {
        self.asked += more.asked;
        self.failed += more.failed;
        self.retried += more.retried;
        self.cached += more.cached;
        self.seconds += more.seconds;
        self.seconds_max = self.seconds_max.max(more.seconds_max);
        self.last_failure = more.last_failure.or(self.last_failure.take());
    }

    /// Whether something was asked and nothing answered.
    pub fn has_failed(&self) -> bool {
        self.asked > 0 && self.failed == self.asked
    }
}

/// The first characters of a reply, for messages.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}
