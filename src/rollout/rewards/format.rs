//! Is the trajectory in the asked-for form: in each message one thought, and behind it a call, or at the end of the last one, exactly one whitespace
//! character and an answer. What follows the answer is not seen.

use crate::rollout::environments::tool_calling::presets::OPEN_USER;
use crate::rollout::reward::{Reward, Score, View};
use crate::rollout::trajectory::{Turn, TurnKind};

/// 1 for `<think>…</think>`, one whitespace character, `<answer>…</answer>` at the end, each tag exactly once in its message, where each message before the
/// last has one `<think>…</think>` and no answer; else 0. An environment of one message, as Thyme's, has only the last.
pub struct Format;

impl Reward for Format {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::of(is_well_formed(view))).collect()
    }
}

fn is_well_formed(view: &View<'_>) -> bool {
    let messages = messages(&view.text, view.turns);
    messages.split_last().is_some_and(|(last, before)| is_answered(last) && before.iter().all(|text| is_thought(text)))
}

/// The model's messages: its own words, cut where the user speaks.
fn messages<'a>(text: &'a str, turns: &[Turn]) -> Vec<&'a str> {
    let (mut messages, mut start, mut at) = (Vec::new(), 0, 0);
    for turn in turns {
        let is_of_user = turn.text.strip_prefix("<|im_end|>").unwrap_or(&turn.text).starts_with(OPEN_USER);
        if turn.kind != TurnKind::Observation {
            at += turn.text.len();
        } else if is_of_user && at < text.len() {
            messages.push(&text[start..at]);
            start = at;
        }
    }
    messages.push(&text[start..]);
    messages
}

fn has_once(text: &str, tag: &str) -> bool {
    text.matches(tag).count() == 1
}

/// One thought, no answer.
fn is_thought(text: &str) -> bool {
    let is_open = text.split_once("</think>").is_some_and(|(thought, _)| thought.contains("<think>"));
    is_open && has_once(text, "<think>") && has_once(text, "</think>") && !text.contains("<answer>")
}

/// One thought, one whitespace character, one answer.
fn is_answered(text: &str) -> bool {
    if !["<think>", "</think>", "<answer>", "</answer>"].into_iter().all(|tag| has_once(text, tag)) {
        return false;
    }
    let Some((thought, rest)) = text.split_once("</think>") else { return false };
    let mut rest = rest.chars();
    thought.contains("<think>")
        && rest.next().is_some_and(char::is_whitespace)
        && rest.as_str().starts_with("<answer>")
        && rest.as_str().ends_with("</answer>")
}
