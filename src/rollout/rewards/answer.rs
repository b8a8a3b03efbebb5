//! Is the answer right, by rule ([`super::equivalence`]): the same text, option, number, date, code or simple mathematics as one of the
//! reference answers. What no rule can judge is unscored, or asked of the judge; or the judge is asked about every answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::equivalence::{Question, Verdict, judge, numbers};
use crate::rollout::judge::Judge;
use crate::rollout::judges::prompts::JudgePromptName;
use crate::rollout::judges::prompts::prompt::JudgePrompt;
use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::tasks::{Accepted, Solution, Tolerance};

/// Settings of the reward `answer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// Whether the judge is asked where no rule can say; it needs `[reward.judge]`.
    pub ask_judge: bool,
    /// An answer of more characters is wrong, for it may be written to mislead a judge; DeepEyes has 999. No limit where absent.
    pub max_answer_characters: Option<usize>,
    /// Compare by rule first. With false the judge is asked about every answer that is not empty, as in DeepEyes.
    pub by_rule: bool,
    /// How the judge is asked, by the name of a prompt: `yes_no`, `thyme`, `deepeyes`, `deepeyes_verl` or `geoguessr`.
    pub judge_prompt: JudgePromptName,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        Self { ask_judge: false, max_answer_characters: None, by_rule: true, judge_prompt: JudgePromptName::default() }
    }
}

/// 1 if the answer fits a reference answer, 0 if it fits none or if there is no answer.
pub struct Answer {
    /// Asked where no rule can say, and how.
    judge: Option<(Arc<dyn Judge>, &'static JudgePrompt)>,
    /// An answer of more characters is wrong.
    max_answer_characters: Option<usize>,
    by_rule: bool,
}

impl Answer {
    /// The reward. Asks the judge nothing.
    ///
    /// # Errors
    /// When the settings want a judge and there is none, or nothing that compares is left.
    pub fn new(settings: AnswerSettings, judge: Option<Arc<dyn Judge>>) -> Result<Self, String> {
        let AnswerSettings { ask_judge, max_answer_characters, by_rule, judge_prompt } = settings;
        let judge = match (ask_judge, judge) {
            (true, None) => return Err("the reward \"answer\" asks it, and it is not given".to_owned()),
            (false, _) if !by_rule => {
                let key = "reward.settings.answer.by_rule";
                return Err(format!(
                    "`{key}` is false, and so no answer would be compared; set `reward.settings.answer.ask_judge`"
                ));
            }
            (true, Some(judge)) => Some((judge, judge_prompt.prompt())),
            (false, _) => None,
        };
        Ok(Self { judge, max_answer_characters, by_rule })
    }
}

impl Reward for Answer {
    fn needs(&self) -> Needs {
        Needs::Answer
    }

    fn asks_judge(&self) -> bool {
        self.judge.is_some()
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
        if self.max_answer_characters.is_some_and(|most| answer.chars().count() > most) {
            return Score::Value(0.0);
        }
        let references = references(view.solution);
        // The judge knows nothing of patterns.
        let verdict = match self.by_rule || references.is_empty() {
            true => fits(answer, view.solution, view.question),
            false => Verdict::Unknown("it is left to the judge".to_owned()),
        };
        let reason = match verdict {
            Verdict::Same => return Score::Value(1.0),
            Verdict::Different => return Score::Value(0.0),
            Verdict::Unknown(reason) => reason,
        };
        let Some((judge, prompt)) = &self.judge else { return Score::Unscored(reason) };
        match prompt.ask(&**judge, view.question, &references.join(", or "), answer) {
            Ok(is_right) => Score::of(is_right),
            Err(error) => Score::Unscored(error.to_string()),
        }
    }
}

/// The reference answers that the judge can read.
fn references(solution: &Solution) -> Vec<String> {
    let written = solution.accepted().iter().filter_map(|accepted| match accepted {
        Accepted::Text(text) => Some(text.clone()),
        Accepted::Number { number, .. } => Some(number.to_string()),
        Accepted::Pattern { .. } => None,
    });
    written.collect()
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
