//! The contract of a reward: it reads the finished trajectories of one task, and returns a value for each, or why there is none. A failure is
//! never turned into a number.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::images::TrajectoryImages;
use super::trajectory::{Call, End, Trajectory, Turn, TurnKind};
use crate::tasks::Solution;

/// What a reward sees of a trajectory.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The model's own text without observations, up to the end of its answer.
    pub text: String,
    /// Of it what stands before the answer, without calls: a line end is in place of each.
    pub thought: String,
    /// The answer, trimmed; `None` where there is none.
    pub answer: Option<String>,
    /// The trajectory after its prompt, as its environment read it.
    pub turns: &'a [Turn],
    /// The tool calls, in order.
    pub calls: &'a [Call],
    /// Tokens that the model sampled.
    pub own_tokens: usize,
    /// The images by index, the task's first.
    pub images: &'a TrajectoryImages,
    /// Why the trajectory ended.
    pub end: &'a End,
    /// The task's question in words.
    pub question: &'a str,
    /// The reference answers.
    pub solution: &'a Solution,
    /// What else stands in the task's row, by key; `None` where the task has no row.
    pub columns: Option<&'a Map<String, Value>>,
}

impl<'a> View<'a> {
    /// The view of a trajectory of a task.
    pub fn new(trajectory: &'a Trajectory, question: &'a str, solution: &'a Solution) -> Self {
        let mut text = trajectory.own_text();
        let before_answer = trajectory.answer.as_ref().map_or(text.len(), |answer| answer.with_tags.start);
        let answer = trajectory.answer.as_ref().map(|answer| {
            text.truncate(answer.with_tags.end);
            text[answer.inside.clone()].trim().to_owned()
        });
        Self {
            thought: thought(&trajectory.turns, before_answer),
            text,
            answer,
            turns: &trajectory.turns,
            calls: &trajectory.calls,
            own_tokens: trajectory.own_tokens(),
            images: &trajectory.original_images,
            end: &trajectory.end,
            question,
            solution,
            columns: None,
        }
    }

    /// The same with what else stands in the task's row.
    pub fn with_columns(self, columns: &'a Map<String, Value>) -> Self {
        Self { columns: Some(columns), ..self }
    }

    /// The data set that the row comes from, as verl names it: its column `data_source`.
    pub fn source(&self) -> Option<&'a str> {
        self.columns?.get("data_source")?.as_str()
    }
}

/// What was thought in the first `bytes` of the model's own text: a line end for each call.
fn thought(turns: &[Turn], bytes: usize) -> String {
    let (mut thought, mut left) = (String::new(), bytes);
    for turn in turns.iter().filter(|turn| turn.kind != TurnKind::Observation) {
        match turn.kind {
            TurnKind::Thought => thought.push_str(&turn.text[..left.min(turn.text.len())]),
            TurnKind::Call => thought.push('\n'),
            TurnKind::Answer | TurnKind::Observation => {}
        }
        left = left.saturating_sub(turn.text.len());
    }
    thought
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
    /// How many tokens the model sampled.
    Tokens,
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

/// A rule that scores trajectories. Its name and its weight stand in the registry.
pub trait Reward: Send + Sync {
    /// The name of another reward: this one is 0 where that one is 0 or less, and unscored where that one is. A recipe's key `gate` takes its
    /// place.
    fn gate(&self) -> Option<&'static str> {
        None
    }

    /// Gets ready what it scores with, once at the start of a run. Not called where rewards are only checked.
    ///
    /// # Errors
    /// When it cannot score at all: why, and the remedy.
    fn start(&self) -> Result<(), String> {
        Ok(())
    }

    /// What its scores depend on besides the trajectories: names and versions. Asked after [`Reward::start`].
    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// What it needs of a trajectory.
    fn needs(&self) -> Needs {
        Needs::Text
    }

    /// Whether it asks the judge. Such a reward is scored only where its weight or a key of its own asks for it, and does not see what its
    /// gate makes 0 or unscored. Without a gate it scores a trajectory as soon as that has ended, alone, on a worker thread while others decode.
    fn asks_judge(&self) -> bool {
        false
    }

    /// Whether a score depends on the other trajectories of the group. Such a reward is scored last, and sees only those whose other parts
    /// with a weight have a score: the others are not learned from.
    fn compares_group(&self) -> bool {
        false
    }

    /// The unweighted score of each trajectory of `group`, usually in `[0, 1]`, in order. A group has the trajectories of one task but for
    /// those that the task or a tool failed; those that the gate makes 0 are among them. Evaluation has groups of one. Called on a worker
    /// thread, for several groups at a time.
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score>;
}
