//! The rewards of DeepEyes (Visual-Agent/DeepEyes, `vl_agent.py`; verl's recipe `deepeyes`). Its total is 0.8 answer + 0.2 deepeyes_format + 1.2
//! tool_use_if_correct; of rows of `thinklite_eureka` and `xince` it is 1.2 answer + 0.4 deepeyes_format.

use serde::{Deserialize, Serialize};

use crate::rollout::answer::{ANSWER_CLOSE, ANSWER_OPEN};
use crate::rollout::reward::{Needs, Reward, Score, View};

const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";
const BOXED_OPEN: &str = "\\boxed{";

/// Settings of the reward `deepeyes_format`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepEyesFormatSettings {
    /// Characters of an answer at most: a long one may be written to mislead a judge.
    pub max_answer_characters: usize,
    /// Values of the column `data_source` whose rows are answered in `\boxed{}` rather than between tags.
    pub boxed_sources: Vec<String>,
}

impl Default for DeepEyesFormatSettings {
    fn default() -> Self {
        let boxed_sources = ["thinklite_eureka", "xince"].map(str::to_owned).to_vec();
        Self { max_answer_characters: 999, boxed_sources }
    }
}

/// 0 for a text in the asked-for form, else −1. The tags of thoughts are as often closed as opened; behind the last thought so are those of the
/// answer, and between the first of them stands an answer of `max_answer_characters` at most. Of a row of `boxed_sources`: exactly one
/// `\boxed{}` that is not empty stands behind the last thought.
///
/// What differs from the original: what stands behind the answer is not seen. Its check that each image placeholder is between its markers is
/// missing, for here no placeholder can be sampled.
pub struct DeepEyesFormat {
    /// What is asked for.
    pub settings: DeepEyesFormatSettings,
}

impl Reward for DeepEyesFormat {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(if self.is_well_formed(view) { 0.0 } else { -1.0 })).collect()
    }
}

impl DeepEyesFormat {
    fn is_well_formed(&self, view: &View<'_>) -> bool {
        let text = &*view.text;
        let is_balanced = |text: &str, open, close| text.matches(open).count() == text.matches(close).count();
        let behind_thought = text.rsplit_once(THINK_CLOSE).map_or(text, |(_, behind)| behind);
        let is_boxed =
            view.source().is_some_and(|source| self.settings.boxed_sources.iter().any(|boxed| boxed == source));
        is_balanced(text, THINK_OPEN, THINK_CLOSE)
            && match is_boxed {
                true => has_one_box(behind_thought),
                false => {
                    is_balanced(behind_thought, ANSWER_OPEN, ANSWER_CLOSE)
                        && first_answer(behind_thought).is_some_and(|answer| self.is_of_right_length(answer))
                }
            }
    }

    fn is_of_right_length(&self, answer: &str) -> bool {
        !answer.is_empty() && answer.chars().count() <= self.settings.max_answer_characters
    }
}

/// What stands between the first opening tag of an answer and the next closing one, trimmed.
fn first_answer(text: &str) -> Option<&str> {
    let (_, behind) = text.split_once(ANSWER_OPEN)?;
    behind.split_once(ANSWER_CLOSE).map(|(answer, _)| answer.trim())
}

/// Whether exactly one `\boxed{}` with something in it stands in a text, up to its first closing brace.
fn has_one_box(text: &str) -> bool {
    let (mut boxes, mut rest) = (0, text);
    while let Some((_, behind)) = rest.split_once(BOXED_OPEN) {
        rest = match behind.find('}') {
            Some(0) => behind,
            Some(end) => {
                boxes += 1;
                &behind[end..]
            }
            None => break,
        };
    }
    boxes == 1
}

/// Settings of the reward `tool_use_if_correct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolUseSettings {
    /// Whether an image must have come back, as in the original repository; in verl's recipe the call is enough.
    pub needs_image: bool,
}

/// 1 where a tool was called, whatever came of it, and its gate is open: by default where the answer is right.
pub struct ToolUse {
    /// What counts.
    pub settings: ToolUseSettings,
}

impl Reward for ToolUse {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let counts =
            |view: &&View<'_>| view.calls.iter().any(|call| !self.settings.needs_image || call.images_shown > 0);
        group.iter().map(|view| Score::of(counts(view))).collect()
    }
}
