//! Is the answer right, by rule ([`super::equivalence`]): the same text, option, number, date, code or simple mathematics as one of the
//! reference answers. What no rule can judge is unscored, or asked of the judge.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::equivalence::{Question, Verdict, judge, numbers};
use crate::rollout::judge::{Judge, shortened};
use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::tasks::{Accepted, Solution, Tolerance};

/// What the judge is told.
const JUDGE_SYSTEM: &str = "You compare answers to a question. Say whether the given answer means the same as the reference answer. Reply \
    with one word: yes or no.";

/// Settings of the reward `answer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// Whether the judge is asked where no rule can say; it needs `[reward.judge]`.
    pub ask_judge: bool,
}

/// 1 if the answer fits a reference answer, 0 if it fits none or if there is no answer.
pub struct Answer {
    /// Asked where no rule can say.
    pub judge: Option<Arc<dyn Judge>>,
}

impl Reward for Answer {
    fn needs(&self) -> Needs {
        Needs::Answer
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| self.score(view)).collect()
    }
}

impl Answer {
    fn score(&self, view: &View<'_>) -> Score {
        if view.solution.accepted().is_empty() {
            return Score::Unscored("the task has no reference answer".to_owned());
        }
        let Some(answer) = view.answer.as_deref().filter(|answer| !answer.is_empty()) else { return Score::Value(0.0) };
        match fits(answer, view.solution, view.question) {
            Verdict::Same => Score::Value(1.0),
            Verdict::Different => Score::Value(0.0),
            Verdict::Unknown(reason) => match &self.judge {
                Some(judge) => judged(&**judge, view, answer),
                None => Score::Unscored(reason),
            },
        }
    }
}

/// The judge's word on an answer that no rule could compare.
fn judged(judge: &dyn Judge, view: &View<'_>, answer: &str) -> Score {
    let mut references = Vec::new();
    for accepted in view.solution.accepted() {
        references.push(match accepted {
            Accepted::Text(text) => text.clone(),
            Accepted::Number { number, .. } => number.to_string(),
            Accepted::Pattern { .. } => continue,
        });
    }
    let user =
        format!("Question: {}\nReference answer: {}\nGiven answer: {answer}", view.question, references.join(", or "));
    let reply = match judge.ask(JUDGE_SYSTEM, &user) {
        Ok(reply) => reply,
        Err(error) => return Score::Unscored(error.to_string()),
    };
    let word = reply.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty()).unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "yes" => Score::Value(1.0),
        "no" => Score::Value(0.0),
        _ => Score::Unscored(format!("the judge said neither yes nor no: {:?}", shortened(&reply))),
    }
}

/// Whether an answer fits one of the reference answers.
pub fn fits(answer: &str, solution: &Solution, question: &str) -> Verdict {
    let question = Question::read(question);
    let mut verdict = Verdict::Different;
    for accepted in solution.accepted() {
        let one = match accepted {
            Accepted::Text(text) => judge(answer, text, &question),
            Accepted::Pattern { regex, .. } => match regex.is_match(answer.trim()) {
                true => Verdict::Same,
                false => Verdict::Different,
            },
            Accepted::Number { number: wanted, tolerance } => {
                let size = match tolerance {
                    Tolerance::Absolute(size) => *size,
                    Tolerance::Relative(share) => share * wanted.abs(),
                };
                // The rounding of the difference is no error of the answer's.
                let size = size + 1e-12 + 1e-12 * wanted.abs();
                let values = numbers(answer);
                match values.iter().any(|value| (value - wanted).abs() <= size) {
                    true => Verdict::Same,
                    false if values.is_empty() => Verdict::Unknown("no number can be read in the answer".to_owned()),
                    false => Verdict::Different,
                }
            }
        };
        match one {
            Verdict::Same => return Verdict::Same,
            Verdict::Unknown(_) => verdict = one,
            Verdict::Different => {}
        }
    }
    verdict
}
