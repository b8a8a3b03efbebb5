//! Is the answer right, by rule: the same text, the same option, the same number or the same simple mathematics. What no rule can
//! judge (a reference in free prose that the answer does not repeat) is unscored.

use super::quantity::Quantity;
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
    if same_yes_or_no(answer, solution) {
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

/// Whether both read as quantities of the same value, and do not give it to different variables.
fn same_mathematics(answer: &str, solution: &str) -> bool {
    if let (Some(a), Some(b)) = (variable(answer), variable(solution))
        && a != b
    {
        return false;
    }
    match (Quantity::read(trim_end(answer)), Quantity::read(trim_end(solution))) {
        (Some(a), Some(b)) => a.same(&b),
        _ => false,
    }
}

/// The single letter before an equals sign.
fn variable(text: &str) -> Option<char> {
    let (name, _) = text.split_once('=')?;
    let mut letters = name.trim_matches([' ', '$']).chars();
    letters.next().filter(|letter| letter.is_alphabetic() && letters.next().is_none())
}

/// Whether one is a bare yes or no, and the other says so first, before a comma or full stop.
fn same_yes_or_no(answer: &str, solution: &str) -> bool {
    let (bare, said) = (normalised(solution), normalised(answer));
    let rest = said.strip_prefix(bare.as_str());
    matches!(bare.as_str(), "yes" | "no") && rest.is_some_and(|rest| rest.starts_with([',', '.', ';', ':', '!']))
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

/// Lower case, dressing and a leading article taken off (`$`, `\boxed{}`, `\text{}`, quotes, bold marks, a final full stop), spaces
/// collapsed.
pub(super) fn normalised(text: &str) -> String {
    let text = undressed(text).to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.split_first() {
        Some((&("the" | "a" | "an"), rest)) if !rest.is_empty() => rest.join(" "),
        _ => words.join(" "),
    }
}

/// Without dressing: `$`, `\boxed{}`, `\text{}`, quotes, bold marks, a final full stop.
fn undressed(text: &str) -> &str {
    const MARKS: [char; 8] = ['$', '"', '\'', '`', '*', '“', '”', ' '];
    let mut text = trim_end(text).trim_matches(MARKS);
    for command in ["\\boxed{", "\\text{", "\\mathrm{", "\\textbf{"] {
        if let Some(inner) = text.strip_prefix(command).and_then(|rest| rest.strip_suffix('}')) {
            text = inner.trim_matches(MARKS);
        }
    }
    trim_end(text)
}

/// A choice among options: `B`, `(B)`, `B.`, `B) cat`, `B. cat`, `B: cat`, `(b) cat`.
struct Choice<'a> {
    letter: char,
    text: Option<&'a str>,
}

impl<'a> Choice<'a> {
    /// Reads a choice. A bare letter must be a capital, so that a variable or an article is none, and no space alone may follow it, so
    /// that the article in "A cat" is none. What names a second option chooses none.
    fn read(text: &'a str) -> Option<Self> {
        let text = undressed(text);
        let inside = text.strip_prefix('(');
        let mut characters = inside.unwrap_or(text).chars();
        let letter = characters.next().filter(char::is_ascii_alphabetic)?;
        let rest = characters.as_str();
        let after = match inside {
            Some(_) => rest.strip_prefix(')')?,
            None if rest.is_empty() && letter.is_ascii_uppercase() => "",
            None => {
                let marked = rest.strip_prefix(['.', ')', ':']);
                let marked = marked.filter(|after| after.is_empty() || after.starts_with([' ', '\n']));
                marked.or_else(|| explained(rest).filter(|_| letter.is_ascii_uppercase()))?
            }
        };
        let after = after.trim_start_matches(['.', ':', ' ']).trim();
        (!names_an_option(after))
            .then(|| Choice { letter: letter.to_ascii_uppercase(), text: (!after.is_empty()).then_some(after) })
    }

    /// Whether `text` is this option's letter by itself, in lower case too.
    fn is_letter(&self, text: &str) -> bool {
        let mut letters = undressed(text).chars();
        letters.next().is_some_and(|letter| letter.eq_ignore_ascii_case(&self.letter)) && letters.next().is_none()
    }

    /// Whether both choose the same; texts count where both have one.
    fn same(&self, other: &Choice<'_>) -> bool {
        let texts = self.text.zip(other.text);
        self.letter == other.letter && texts.is_none_or(|(a, b)| normalised(a) == normalised(b))
    }

    /// Whether `text` is this option's letter, or its text by itself or in the question.
    fn means(&self, text: &str, question: &str) -> bool {
        self.is_letter(text)
            || self
                .text
                .or_else(|| option_text(question, self.letter))
                .is_some_and(|option| normalised(option) == normalised(text))
    }
}

/// What follows a letter that is explained in brackets or after a dash (`B (cat)`, `B - cat`), or is said to be right.
fn explained(rest: &str) -> Option<&str> {
    if let Some(inside) = rest.strip_prefix(" (") {
        return inside.strip_suffix(')');
    }
    if [" is correct", " is right", " is the correct", " is the right"].iter().any(|said| rest.starts_with(said)) {
        return Some("");
    }
    [" - ", " – ", " — "].iter().find_map(|dash| rest.strip_prefix(dash))
}

/// Whether the text of an option is or lists options itself: `B`, `cat (B) dog`, `cat B. dog`.
fn names_an_option(text: &str) -> bool {
    let is_letter = |word: &str| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase());
    let words: Vec<&str> = text.split_whitespace().collect();
    let marked = |word: &&str| {
        let bare = word.strip_suffix(['.', ')', ':']).map(|word| word.strip_prefix('(').unwrap_or(word));
        bare.is_some_and(is_letter)
    };
    let before_last = &words[..words.len().saturating_sub(1)];
    (words.len() == 1 && is_letter(words[0]))
        || before_last.iter().any(marked)
        || words.last().is_some_and(|word| word.starts_with('(') && marked(word))
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
