//! Is the answer right, by rule: the same text, the same option, the same number or the same simple mathematics. What no rule can
//! judge (a reference in free prose that the answer does not repeat) is unscored.

use super::math;
use crate::rollout::reward::{Reward, Score, View};

/// Openings that carry nothing, as in Thyme; the longest that fits is taken off, whatever its case.
const PREFIXES: [&str; 12] = [
    "The best answer is",
    "The correct answer is",
    "The final answer is",
    "The answer is",
    "The answer:",
    "Final answer:",
    "Answer:",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
    "Option",
];
/// A reference of more words than this is prose.
const REFERENCE_WORDS_MAX: usize = 8;

/// 1 if the answer equals the reference by a rule, 0 if not or if there is none.
pub struct Answer;

impl Reward for Answer {
    fn name(&self) -> &'static str {
        "answer"
    }

    fn default_weight(&self) -> f64 {
        1.0
    }

    fn score(&self, view: &View<'_>) -> Score {
        let solution = reference(view.solution);
        if solution.is_empty() {
            return Score::Unscored("the task has no reference answer".to_owned());
        }
        let Some(answer) = view.answer().filter(|answer| !answer.is_empty()) else { return Score::Value(0.0) };
        if same(answer, solution, view.question) {
            return Score::Value(1.0);
        }
        if solution.split_whitespace().count() > REFERENCE_WORDS_MAX && Choice::read(solution).is_none() {
            return Score::Unscored("no rule can compare prose".to_owned());
        }
        Score::Value(0.0)
    }
}

/// The reference answer without `<answer>` tags, which some data sets keep.
fn reference(solution: &str) -> &str {
    let solution = match solution.split_once("<answer>") {
        Some((_, rest)) => rest.split_once("</answer>").map_or(rest, |(inside, _)| inside),
        None => solution,
    };
    solution.trim()
}

/// Whether two answers to a question are the same by any rule.
pub fn same(answer: &str, solution: &str, question: &str) -> bool {
    let (answer, solution) = (strip(answer), strip(solution));
    if normalised(answer) == normalised(solution) && !normalised(answer).is_empty() {
        return true;
    }
    match (Choice::read(answer), Choice::read(solution)) {
        (Some(chosen), Some(correct)) => return chosen.same(&correct),
        (None, Some(correct)) if correct.means(answer, question) => return true,
        (Some(chosen), None) if chosen.means(solution, question) => return true,
        _ => {}
    }
    same_mathematics(answer, solution)
}

/// Whether both read as mathematics of the same value; one unit that only one of them names is forgiven, two must agree.
fn same_mathematics(answer: &str, solution: &str) -> bool {
    if let (Some(a), Some(b)) = (math::parse(trim_end(answer)), math::parse(trim_end(solution))) {
        return a.same(&b);
    }
    let ((a, unit_a), (b, unit_b)) = (split_unit(trim_end(answer)), split_unit(trim_end(solution)));
    let units_agree = unit_a.is_empty() || unit_b.is_empty() || unit_a.eq_ignore_ascii_case(unit_b);
    match (math::parse(a), math::parse(b)) {
        (Some(a), Some(b)) if units_agree => a.same(&b),
        _ => false,
    }
}

/// A number and the letters after it: `5 cm` to `5` and `cm`. Nothing is split off what has no digit before the letters.
fn split_unit(text: &str) -> (&str, &str) {
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = &text[number.len()..];
    match number.trim_end() {
        number if number.ends_with(|c: char| c.is_ascii_digit() || c == '}') => (number, unit),
        _ => (text, ""),
    }
}

/// Without the empty openings, whatever stands around them.
pub(super) fn strip(answer: &str) -> &str {
    let mut answer = answer.trim();
    while let Some(rest) =
        PREFIXES.iter().filter_map(|prefix| strip_prefix_any_case(answer, prefix)).min_by_key(|rest| rest.len())
    {
        answer = rest.trim_start_matches([':', ' ', '\n', '\t']);
    }
    answer
}

/// What follows `prefix`, if it is not the beginning of a longer word.
fn strip_prefix_any_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    let rest = &text[prefix.len()..];
    let ends = prefix.ends_with(':') || rest.starts_with([':', ' ', '\n', '\t']);
    (ends && head.eq_ignore_ascii_case(prefix) && !rest.trim().is_empty()).then_some(rest)
}

/// Without a full stop and spaces at the end.
fn trim_end(text: &str) -> &str {
    text.trim().trim_end_matches(['.', ' '])
}

/// Lower case, dressing taken off (`$`, `\boxed{}`, `\text{}`, quotes, bold marks, a final full stop), spaces collapsed.
pub(super) fn normalised(text: &str) -> String {
    let mut text = text.trim();
    for command in ["\\boxed{", "\\text{", "$\\boxed{"] {
        if let Some(inner) = text.strip_prefix(command).and_then(|rest| rest.trim_end_matches('$').strip_suffix('}')) {
            text = inner;
        }
    }
    let text = trim_end(text).trim_matches(['$', '"', '\'', '`', '*', '“', '”', ' ']);
    trim_end(text).to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A choice among options: `B`, `(B)`, `B.`, `B) cat`, `B. cat`, `B: cat`.
struct Choice<'a> {
    letter: char,
    text: Option<&'a str>,
}

impl<'a> Choice<'a> {
    /// Reads a choice. A bare letter must be a capital, so that the article in "a cat" is none; so must one with text after it.
    fn read(text: &'a str) -> Option<Self> {
        let text = text.trim().trim_matches(['*', '$', '`']);
        let inside = text.strip_prefix('(');
        let mut characters = inside.unwrap_or(text).chars();
        let letter = characters.next().filter(char::is_ascii_alphabetic)?;
        let rest = characters.as_str();
        let after = match inside {
            Some(_) => rest.strip_prefix(')')?,
            None if rest.is_empty() => "",
            None => {
                rest.strip_prefix(['.', ')', ':']).filter(|after| after.is_empty() || after.starts_with([' ', '\n']))?
            }
        };
        let after = after.trim_start_matches(['.', ':', ' ']).trim();
        let is_marked_alone = after.is_empty() && (inside.is_some() || !rest.is_empty());
        (letter.is_ascii_uppercase() || is_marked_alone)
            .then(|| Choice { letter: letter.to_ascii_uppercase(), text: (!after.is_empty()).then_some(after) })
    }

    /// Whether both choose the same; texts count where both have one.
    fn same(&self, other: &Choice<'_>) -> bool {
        let texts = self.text.zip(other.text);
        self.letter == other.letter && texts.is_none_or(|(a, b)| normalised(a) == normalised(b))
    }

    /// Whether `text` is the text of this option, by itself or in the question.
    fn means(&self, text: &str, question: &str) -> bool {
        self.text
            .or_else(|| option_text(question, self.letter))
            .is_some_and(|option| normalised(option) == normalised(text))
    }
}

/// The text of an option in a question that lists them one a line, or in a row: `A. cat`, `(B) dog`.
fn option_text(question: &str, letter: char) -> Option<&str> {
    let marks = [format!("({letter})"), format!("{letter}."), format!("{letter})"), format!("{letter}:")];
    let begins =
        |at: usize| question[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || c == ',' || c == ';');
    for mark in &marks {
        for (at, _) in question.match_indices(mark.as_str()) {
            if !begins(at) {
                continue;
            }
            let rest = &question[at + mark.len()..];
            let line = rest.split('\n').next().unwrap_or(rest);
            let next = char::from_u32(u32::from(letter) + 1).unwrap_or(letter);
            let ends = [format!("({next})"), format!(" {next}."), format!(" {next})"), format!(" {next}:")];
            let end = ends.iter().filter_map(|mark| line.find(mark.as_str())).min().unwrap_or(line.len());
            let text = line[..end].trim().trim_end_matches([',', ';']);
            return (!text.is_empty()).then_some(text);
        }
    }
    None
}
