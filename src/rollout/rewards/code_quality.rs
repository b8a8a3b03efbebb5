//! Is the code code? Thyme's `code_orm_llm`: the judge says of each piece whether it is gibberish, or nothing but comments.

use std::sync::Arc;

use super::judge_reply::ask_for_scores;
use crate::rollout::judge::Judge;
use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;

/// What the judge is told.
const JUDGE_SYSTEM: &str = "You look at code that a model wrote to work on an image or to compute something. Code that is gibberish or has no \
    meaning is bad, and so is code that consists of comments alone and neither works on an image nor computes. Reply with a JSON object and \
    nothing else: {\"Correctness\": 0} for bad code, {\"Correctness\": 1} for any other.";
/// The key of its verdict.
const KEY: &str = "Correctness";

/// 1 if all calls ran without an error and the judge takes the code of each for code, else 0; 0 without a call or an answer. Calls beyond the
/// limit do not count.
///
/// What differs from Thyme: what the judge does not say is unscored, where Thyme has 0; a call of a tool by name is asked about as the JSON of
/// its arguments.
pub struct CodeQuality {
    /// Who is asked.
    pub judge: Option<Arc<dyn Judge>>,
}

impl Reward for CodeQuality {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn asks_judge(&self) -> bool {
        true
    }

    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| self.score(view)).collect()
    }
}

impl CodeQuality {
    fn score(&self, view: &View<'_>) -> Score {
        let mut calls = view.calls.iter().filter(|call| call.output.status != CallStatus::OverLimit).peekable();
        let has_answer = view.answer.as_ref().is_some_and(|answer| !answer.is_empty());
        if !has_answer || calls.peek().is_none() || calls.clone().any(|call| !call.output.status.is_ok()) {
            return Score::Value(0.0);
        }
        for call in calls {
            let user = format!("Code:\n{}", call.request);
            match ask_for_scores(self.judge.as_ref(), (JUDGE_SYSTEM, &user), [KEY], 0..=1) {
                Ok([1]) => {}
                Ok(_) => return Score::Value(0.0),
                Err(reason) => return Score::Unscored(reason),
            }
        }
        Score::Value(1.0)
    }
}
