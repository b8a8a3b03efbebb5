//! What a prompt is, and how replies are read.

use crate::rollout::judge::{Judge, JudgeError, Question, shortened};

/// What is asked about an answer.
pub struct JudgePrompt {
    /// The system message; none where empty.
    pub system: &'static str,
    /// The user's message, in which `{question}`, `{reference}` and `{answer}` stand for those.
    pub user: &'static str,
    /// The temperature of the reply.
    pub temperature: f64,
    /// Tries after the first.
    pub max_retries: usize,
    /// Whether a reply says that the answer is right, or else what is wrong with the reply.
    pub verdict: fn(&str) -> Result<bool, String>,
}

impl JudgePrompt {
    /// Whether an answer means the same as the reference, in the judge's word.
    ///
    /// # Errors
    /// When there is no reply, or none of the form that was asked for.
    pub fn ask(&self, judge: &dyn Judge, question: &str, reference: &str, answer: &str) -> Result<bool, JudgeError> {
        let user = filled(self.user, &[("{question}", question), ("{reference}", reference), ("{answer}", answer)]);
        let question = Question {
            temperature: self.temperature,
            max_retries: self.max_retries,
            form: &|reply| (self.verdict)(reply).map(drop),
            ..Question::new(self.system, &user)
        };
        (self.verdict)(&judge.answer(&question)?).map_err(JudgeError)
    }
}

/// The text with each mark replaced by its value; marks in a value stay as they are.
fn filled(text: &str, values: &[(&str, &str)]) -> String {
    let (mut filled, mut rest) = (String::new(), text);
    loop {
        let places = values.iter().filter_map(|(mark, value)| Some((rest.find(mark)?, *mark, *value)));
        let Some((at, mark, value)) = places.min_by_key(|(at, ..)| *at) else { break };
        filled += &rest[..at];
        filled += value;
        rest = &rest[at + mark.len()..];
    }
    filled + rest
}

/// Whether a reply has the word `yes`, where it has not the word `no` too; capital or small. A word is bounded as by `\b` in a pattern.
pub fn one_word(reply: &str, yes: &str, no: &str) -> Result<bool, String> {
    let has = |wanted: &str| {
        let mut words = reply.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    };
    match (has(yes), has(no)) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        (true, true) => Err(format!("the judge said both {yes} and {no}: {:?}", shortened(reply))),
        (false, false) => Err(format!("the judge said neither {yes} nor {no}: {:?}", shortened(reply))),
    }
}
