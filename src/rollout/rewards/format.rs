//! Is the trajectory in the asked-for form: one thought, exactly one whitespace character, one answer. What follows the answer
//! is not seen: `View::new` cuts it off.

use crate::rollout::reward::{Reward, Score, View};

/// 1 for `<think>…</think>`, one whitespace character, `<answer>…</answer>` at the end, each tag exactly once; else 0.
pub struct Format;

impl Reward for Format {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::of(well_formed(&view.text))).collect()
    }
}

fn well_formed(text: &str) -> bool {
    let once = |tag: &str| text.matches(tag).count() == 1;
    if !["<think>", "</think>", "<answer>", "</answer>"].into_iter().all(once) {
        return false;
    }
    let Some((thought, rest)) = text.split_once("</think>") else { return false };
    let mut rest = rest.chars();
    thought.contains("<think>")
        && rest.next().is_some_and(char::is_whitespace)
        && rest.as_str().starts_with("<answer>")
        && rest.as_str().ends_with("</answer>")
}
