//! Does the thought conclude what the answer says? By rule: the conclusion, in the last part of the thought, must name the answer.

use super::answer::{normalised, same, strip};
use crate::rollout::reward::{Reward, Score, View};

/// Characters at the end of the thought in which the conclusion is looked for, as in Thyme.
const LAST_CHARACTERS: usize = 500;
/// Words that announce a conclusion.
const ANNOUNCEMENTS: [&str; 4] = ["answer is", "answer:", "answer would be", "option is"];

/// 1 if the conclusion names the answer, 0 if not or if there is no answer. Counts only where the answer is right.
pub struct Consistency;

impl Reward for Consistency {
    fn name(&self) -> &'static str {
        "consistency"
    }

    fn default_weight(&self) -> f64 {
        0.5
    }

    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn score(&self, view: &View<'_>) -> Score {
        let Some(answer) = view.answer().map(strip).filter(|answer| !answer.is_empty()) else {
            return Score::Value(0.0);
        };
        let thought = thought(&view.text);
        Score::of(conclusion(last_part(&thought)).is_some_and(|conclusion| names(conclusion, answer, view.question)))
    }
}

/// The thought without code: what a program prints or computes is not a conclusion.
fn thought(text: &str) -> String {
    let text = text.split_once("<think>").map_or(text, |(_, rest)| rest);
    let text = text.split("</think>").next().unwrap_or(text);
    let text = text.split("<answer>").next().unwrap_or(text);
    let mut prose = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<code>") {
        prose.push_str(before);
        prose.push('\n');
        rest = after.split_once("</code>").map_or("", |(_, after)| after);
    }
    prose.push_str(rest);
    prose
}

fn last_part(thought: &str) -> &str {
    let start = thought.char_indices().rev().nth(LAST_CHARACTERS - 1).map_or(0, |(offset, _)| offset);
    &thought[start..]
}

/// What the thought ends on: what follows the last words like "the answer is", to the end of the sentence, else the last two
/// sentences.
fn conclusion(text: &str) -> Option<&str> {
    let sentences = sentences(text);
    let lower = text.to_ascii_lowercase();
    let announced = ANNOUNCEMENTS.iter().filter_map(|words| lower.rfind(words).map(|at| at + words.len())).max();
    match announced {
        Some(at) => {
            let end = sentences.iter().map(|&(_, end)| end).find(|&end| end > at).unwrap_or(text.len());
            Some(&text[at..end])
        }
        None => {
            let (start, _) = sentences.get(sentences.len().saturating_sub(2))?;
            Some(&text[*start..])
        }
    }
}

/// The bounds of the sentences that are not blank: cut after `.`, `!`, `?` before a space, and at line ends.
fn sentences(text: &str) -> Vec<(usize, usize)> {
    let mut bounds = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        let next_is_space = characters.peek().is_none_or(|(_, next)| next.is_whitespace());
        if character == '\n' || (matches!(character, '.' | '!' | '?') && next_is_space) {
            bounds.push((start, end));
            start = end;
        }
    }
    bounds.push((start, text.len()));
    bounds.retain(|&(start, end)| !text[start..end].trim().is_empty());
    bounds
}

/// Whether `text` names `answer`: as whole words, or as a word of the same value.
fn names(text: &str, answer: &str, question: &str) -> bool {
    if same(text.trim().trim_start_matches([':', ' ']), answer, question) {
        return true;
    }
    let words = |text: &str| -> Vec<String> {
        let apart = |c: char| c.is_whitespace() || matches!(c, '!' | '?' | ';' | '"' | '“' | '”' | '*' | '`' | '\'');
        let trim = |word: &str| word.trim_matches(['.', ',', ':']).to_owned();
        text.split(apart).map(trim).filter(|word| !word.is_empty()).collect()
    };
    let (said, wanted) = (words(text), words(answer));
    let equal = |a: &str, b: &str| same(a, b, "") || normalised(a) == normalised(b);
    !wanted.is_empty() && said.windows(wanted.len()).any(|window| window.iter().zip(&wanted).all(|(a, b)| equal(a, b)))
}
