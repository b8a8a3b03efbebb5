//! Is the answer right, by rule ([`super::equivalence`]): the same text, option, number, date, code or simple mathematics as one of the
//! reference answers. What no rule can judge is unscored.

use super::equivalence::{Question, Verdict, judge, numbers};
use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::tasks::{Accepted, Solution, Tolerance};

/// 1 if the answer fits a reference answer, 0 if it fits none or if there is no answer.
pub struct Answer;

impl Reward for Answer {
    fn name(&self) -> &'static str {
        "answer"
    }

    fn default_weight(&self) -> f64 {
        1.0
    }

    fn needs(&self) -> Needs {
        Needs::Answer
    }

    fn score(&self, view: &View<'_>) -> Score {
        if view.solution.accepted().is_empty() {
            return Score::Unscored("the task has no reference answer".to_owned());
        }
        let Some(answer) = view.answer().filter(|answer| !answer.is_empty()) else { return Score::Value(0.0) };
        match fits(answer, view.solution, view.question) {
            Verdict::Same => Score::Value(1.0),
            Verdict::Different => Score::Value(0.0),
            Verdict::Unknown(reason) => Score::Unscored(reason),
        }
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
