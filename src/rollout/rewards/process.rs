//! How good is the way to the answer? Thyme's `vqa_prm`: the judge rates the reasoning and the writing.

use std::sync::Arc;

use super::consistency::between_think_tags;
use super::judge_reply::{ask_for_scores, references};
use crate::rollout::judge::Judge;
use crate::rollout::reward::{Reward, Score, View};

/// What the judge is told.
const JUDGE_SYSTEM: &str = "You rate how a model came to its answer to a question about an image. You are given the question, the reference \
    answer and the model's reasoning, in which code may stand. Rate two things, each from 1 to 10, where 10 is best. Process Correctness: is the \
    reasoning logical, free of errors and of things that cannot be in the image, and about the question? Text Quality: is it well ordered and \
    brief? Sentences that repeat themselves and reasoning that comes to no answer are of low quality. Reply with a JSON object and nothing else: \
    {\"Process Correctness\": a whole number, \"Text Quality\": a whole number}.";
/// The keys of its ratings.
const KEYS: [&str; 2] = ["Process Correctness", "Text Quality"];

/// Half the sum of the judge's two ratings, from 1 to 10, over 10: from 0.1 to 1.
///
/// What differs from Thyme: the judge reads the model's own words and code, and not what the code printed; what it does not say is unscored,
/// where Thyme has 0.
pub struct Process {
    /// Who is asked.
    pub judge: Option<Arc<dyn Judge>>,
}

impl Reward for Process {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn asks_judge(&self) -> bool {
        true
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| self.score(view)).collect()
    }
}

impl Process {
    fn score(&self, view: &View<'_>) -> Score {
        let reasoning = between_think_tags(&view.text).trim();
        let (question, references) = (view.question, references(view.solution));
        let user = format!("Question: {question}\nReference answer: {references}\nReasoning:\n{reasoning}");
        match ask_for_scores(self.judge.as_ref(), (JUDGE_SYSTEM, &user), KEYS, 1..=10) {
            Ok([process, text]) => Score::Value(0.5 * (process as f64 / 10.0) + 0.5 * (text as f64 / 10.0)),
            Err(reason) => Score::Unscored(reason),
        }
    }
}
