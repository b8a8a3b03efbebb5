//! One word, yes or no.

use super::prompt::JudgePrompt;
use crate::rollout::judge::{MAX_RETRIES, shortened};

pub(super) const PROMPT: JudgePrompt = JudgePrompt {
    system: "You compare answers to a question. Say whether the given answer means the same as the reference answer. Reply with one word: yes or \
             no.",
    user: "Question: {question}\nReference answer: {reference}\nGiven answer: {answer}",
    temperature: 0.0,
    max_retries: MAX_RETRIES,
    verdict,
};

/// By the reply's first word.
fn verdict(reply: &str) -> Result<bool, String> {
    let word = reply.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty()).unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("the judge said neither yes nor no: {:?}", shortened(reply))),
    }
}
