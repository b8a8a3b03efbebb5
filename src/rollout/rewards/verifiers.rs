//! The rewards of verifiers' vision environment (Philemonade/verifiers, `vision_env.py`), by rules. Its total is the weighted mean of 0.2
//! verifiers_format, 0.3 verifiers_tool, 0.3 verifiers_answer and 0.2 for the image.

use crate::rollout::answer::{ANSWER_CLOSE, ANSWER_OPEN};
use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;

/// Calls that are not too many.
const CALLS_FEW: u32 = 3;
/// The factor of more.
const MANY: f64 = 0.8;

/// 1 for a `<think>` and a `<tool>` or an `<answer>`, 0.5 for one of the two, else 0; each with its closing tag, anywhere in the model's words.
///
/// What differs from the original: there the observations are looked at too.
pub struct VerifiersFormat;

impl Reward for VerifiersFormat {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let score = |text: &str| {
            let has_thought = holds(text, "<think>", "</think>");
            let has_action = holds(text, "<tool>", "</tool>") || holds(text, ANSWER_OPEN, ANSWER_CLOSE);
            f64::from(u8::from(has_thought) + u8::from(has_action)) / 2.0
        };
        group.iter().map(|view| Score::Value(score(&view.text))).collect()
    }
}

/// Whether a tag is opened and closed behind that.
fn holds(text: &str, open: &str, close: &str) -> bool {
    text.split_once(open).is_some_and(|(_, behind)| behind.contains(close))
}

/// The share of calls that ran without an error, times 1 for one to three calls and 0.8 for more; 0 without a call. Calls beyond the limit do not
/// count.
///
/// What differs from the original: there calls that fail are left out of the history that it counts, so that its share is always 1.
pub struct VerifiersTool;

impl Reward for VerifiersTool {
    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let score = |view: &&View<'_>| {
            let ran = view.calls.iter().filter(|call| call.output.status != CallStatus::OverLimit);
            let (good, all) =
                ran.fold((0, 0), |(good, all), call| (good + u32::from(call.output.status.is_ok()), all + 1));
            let share = f64::from(good) / f64::from(all.max(1));
            if all > CALLS_FEW { share * MANY } else { share }
        };
        group.iter().map(|view| Score::Value(score(view))).collect()
    }
}

/// 1 for any answer, right or wrong.
pub struct VerifiersAnswer;

impl Reward for VerifiersAnswer {
    fn needs(&self) -> Needs {
        Needs::Answer
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::of(view.answer.is_some())).collect()
    }
}
