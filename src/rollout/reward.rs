//! The contract of a reward: it reads a finished trajectory, and returns a value or why there is none. A failure is never turned into a number.

use serde::Serialize;

use super::trajectory::{Call, End, Trajectory, TurnKind};
use crate::tasks::Solution;

/// What a reward sees of a trajectory.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The model's own text without observations. [`View::new`] cuts it after the first `</answer>`.
    pub text: String,
    /// The answer in it, trimmed; `None` where there is none.
    pub answer: Option<String>,
    /// The tool calls, in order.
    pub calls: &'a [Call],
    /// Why the trajectory ended.
    pub end: &'a End,
    /// The task's question in words.
    pub question: &'a str,
    /// The reference answers.
    pub solution: &'a Solution,
}

impl<'a> View<'a> {
    /// The view of a trajectory of a task.
    pub fn new(trajectory: &'a Trajectory, question: &'a str, solution: &'a Solution) -> Self {
        let mut text = String::new();
        for turn in trajectory.turns.iter().filter(|turn| turn.kind != TurnKind::Observation) {
            text.push_str(&turn.text);
        }
        if let Some(end) = text.find("</answer>") {
            text.truncate(end + "</answer>".len());
        }
        let answer = answer_in(&text).map(str::to_owned);
        Self { text, answer, calls: &trajectory.calls, end: &trajectory.end, question, solution }
    }

    /// The answer, trimmed; `None` where there is none.
    pub fn answer(&self) -> Option<&str> {
        self.answer.as_deref()
    }
}

/// What stands between the last `</answer>` of a text and the last `<answer>` before it, trimmed: the model may have spoken of the tags
/// before it answered. `None` without the pair.
pub fn answer_in(text: &str) -> Option<&str> {
    let (before, _) = text.rsplit_once("</answer>")?;
    let (_, answer) = before.rsplit_once("<answer>")?;
    Some(answer.split("</answer>").next().unwrap_or(answer).trim())
}

/// What a reward needs of a trajectory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// The answer alone.
    Answer,
    /// The model's text.
    Text,
    /// How the tool calls went.
    Calls,
}

/// A reward's verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The reward's unweighted score, or a weighted total.
    Value(f64),
    /// Why there is none. Counted, logged, and left out of its group.
    Unscored(String),
}

impl Score {
    /// 1 for true, 0 for false.
    pub fn of(verdict: bool) -> Self {
        Score::Value(f64::from(u8::from(verdict)))
    }

    /// The value, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Score::Value(value) => Some(*value),
            Score::Unscored(_) => None,
        }
    }
}

/// A rule that scores a trajectory.
pub trait Reward: Send + Sync {
    /// The name in recipes and logs.
    fn name(&self) -> &'static str;
    /// The weight unless a recipe says otherwise.
    fn default_weight(&self) -> f64;
    /// The name of another reward: this one is 0 where that one is 0 or less, and unscored where that one is.
    fn gate(&self) -> Option<&'static str> {
        None
    }
    /// What it needs of a trajectory.
    fn needs(&self) -> Needs {
        Needs::Text
    }
    /// The unweighted score, usually in `[0, 1]`.
    fn score(&self, view: &View<'_>) -> Score;
}
