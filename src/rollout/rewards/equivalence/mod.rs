//! Whether two answers to a question are the same, by rule: the same words, the same option, the same date, time, range or code, the same
//! value. A rule that would have to guess says so.

mod choice;
mod expression;
mod literal;
mod number;
mod question;
mod text;
mod unit;
mod value;

pub use question::Question;
pub(super) use text::words;

use text::{canonical, trimmed, without_latex};
use value::{Assigned, Separators, split_list};

/// Longest text that rules other than equality look at, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// A text of more words than this is prose.
const PROSE_WORDS: usize = 8;

/// What the rules say of two answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// They are the same.
    Same,
    /// They are not.
    Different,
    /// No rule can tell, and why.
    Unknown(String),
}

impl Verdict {
    fn of(is_same: bool) -> Self {
        if is_same { Self::Same } else { Self::Different }
    }

    fn unknown(reason: &str) -> Self {
        Self::Unknown(reason.to_owned())
    }
}

/// Openings that carry nothing, in lower case. The longest that fits is taken off, again and again.
const OPENINGS: [&str; 49] = [
    "the best answer is",
    "the correct answer is",
    "the final answer is",
    "the right answer is",
    "the answer is",
    "the answer should be",
    "the answer would be",
    "the answer must be",
    "the answer:",
    "the final answer:",
    "the correct answer:",
    "final answer:",
    "final answer is",
    "correct answer:",
    "answer:",
    "answer is",
    "answer",
    "my answer is",
    "my final answer is",
    "the best option is",
    "the correct option is",
    "the right option is",
    "the correct choice is",
    "the best choice is",
    "the right choice is",
    "correct option:",
    "correct choice:",
    "best answer:",
    "best option:",
    "option",
    "choice",
    "i choose",
    "i would choose",
    "i pick",
    "i select",
    "i think",
    "i believe",
    "i would say",
    "it must be",
    "therefore",
    "thus",
    "hence",
    "so",
    "it is",
    "it's",
    "this is",
    "that is",
    "答案是",
    "答案",
];
/// Subjects of a sentence whose end is the answer: `The sign says STOP`.
const SUBJECTS: [&str; 14] =
    ["the", "this", "that", "these", "those", "it", "there", "they", "he", "she", "a", "an", "its", "we"];
/// Verbs of such a sentence.
const VERBS: [&str; 13] = [
    " is ", " are ", " was ", " were ", " says ", " say ", " reads ", " read ", " shows ", " equals ", " = ", " see ",
    " has ",
];
/// Words that put a place or time in front of a noun.
const PREPOSITIONS: [&str; 7] = ["to the", "on the", "in the", "at the", "in", "on", "at"];
/// Words with which a reason or a correction begins.
const EXPLANATIONS: [&str; 6] = [", not ", " because ", ", because ", ", since ", ", as ", " rather than "];

/// What the rules say of an answer to a question beside a solution.
pub fn judge(answer: &str, solution: &str, question: &Question) -> Verdict {
    let (answer, solution) = (tagged(answer), tagged(solution));
    if words(answer) == words(solution) && !words(answer).is_empty() {
        return Verdict::Same;
    }
    if answer.len() > TEXT_BYTES_MAX || solution.len() > TEXT_BYTES_MAX {
        return Verdict::unknown("the text is too long for a rule");
    }
    let (answer, solution) = (canonical(answer), canonical(solution));
    let (answers, solutions) = (readings(&answer), readings(&solution));
    if answers.iter().all(|text| text.is_empty()) {
        return Verdict::Different;
    }
    let are_latex = literal::are_latex(&answer, &solution);
    let mut verdicts = Vec::new();
    for answer in &answers {
        for solution in &solutions {
            match compare(answer, solution, are_latex, question) {
                Verdict::Same => return Verdict::Same,
                verdict => verdicts.push(verdict),
            }
        }
    }
    // The plainest reading of both decides.
    verdicts.pop().unwrap_or(Verdict::Different)
}

/// What stands between `<answer>` and `</answer>`, if anything does.
fn tagged(text: &str) -> &str {
    let text = text.split_once("</answer>").map_or(text, |(inside, _)| inside);
    text.rsplit_once("<answer>").map_or(text, |(_, inside)| inside).trim()
}

/// What a canonical text may mean, from the whole of it to the plainest: without openings, the last `\boxed`, what a sentence like
/// `The sign says STOP` ends on, without a reason behind it.
fn readings(text: &str) -> Vec<String> {
    let boxed = text.rfind("\\boxed{").and_then(|at| {
        let inner = &text[at + "\\boxed{".len()..];
        text::closing_brace(inner).map(|end| without_latex(&inner[..end]))
    });
    let whole = trimmed(&without_latex(text)).to_owned();
    let mut found = vec![whole.clone()];
    let mut add = |text: &str| {
        let text = trimmed(text).to_owned();
        if !text.is_empty() && !found.contains(&text) {
            found.push(text);
        }
    };
    if let Some(boxed) = boxed {
        add(&boxed);
        return found;
    }
    if let Some((_, result)) = whole.rsplit_once("####") {
        add(result);
    }
    let opened = without_openings(&whole);
    add(opened);
    let explained = EXPLANATIONS.iter().filter_map(|word| opened.split_once(word)).map(|(before, _)| before);
    let short = explained.min_by_key(|before| before.len()).unwrap_or(opened);
    add(short);
    if let Some(end) = predicate(short) {
        add(without_openings(end));
    }
    found
}

/// Without the openings that carry nothing.
fn without_openings(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let rest = OPENINGS.iter().filter_map(|opening| after_opening(text, opening)).min_by_key(|rest| rest.len());
        match rest {
            Some(rest) => text = rest.trim_start_matches([':', ',', ' ', '\n', '\t']),
            None => return text,
        }
    }
}

/// What follows `opening`, if it is not the beginning of a longer word.
fn after_opening<'a>(text: &'a str, opening: &str) -> Option<&'a str> {
    let head = text.get(..opening.len())?;
    let rest = &text[opening.len()..];
    let ends = opening.ends_with(':') || !opening.is_ascii() || rest.starts_with([':', ' ', '\n', '\t', ',']);
    let rest_is = rest.trim_start_matches([':', ',']).trim();
    (ends && head.eq_ignore_ascii_case(opening) && !rest_is.is_empty()).then_some(rest)
}

/// What a short sentence says of its subject: `STOP` of `The sign says STOP`, `5` of `x is 5`.
fn predicate(text: &str) -> Option<&str> {
    let (at, verb) = VERBS.iter().filter_map(|verb| text.find(verb).map(|at| (at, verb))).min()?;
    let subject = text[..at].to_lowercase();
    let words: Vec<&str> = subject.split_whitespace().collect();
    let is_article = matches!(words.first(), Some(&("a" | "an")));
    let is_variable = words.len() == 1 && subject.chars().count() == 1 && text.starts_with(|c: char| c.is_lowercase());
    let is_subject = words.first().is_some_and(|first| SUBJECTS.contains(first)) && (words.len() > 1 || !is_article);
    let denies = words.iter().any(|word| matches!(*word, "not" | "or" | "no" | "neither" | "opposite"));
    ((is_variable || is_subject) && words.len() <= 8 && !denies).then(|| text[at + verb.len()..].trim())
}

/// One reading of the answer beside one of the solution.
fn compare(answer: &str, solution: &str, are_latex: bool, question: &Question) -> Verdict {
    if let Some(verdict) = same_words(answer, solution, question) {
        return verdict;
    }
    if let Some(verdict) = yes_or_no(answer, solution) {
        return verdict;
    }
    if let Some(verdict) = choice::compare(answer, solution, question) {
        return verdict;
    }
    if let Some(verdict) = literal::compare(answer, solution, are_latex, question) {
        return verdict;
    }
    if let Some(verdict) = values(answer, solution, question) {
        return verdict;
    }
    if let Some(verdict) = lists(answer, solution, are_latex, question) {
        return verdict;
    }
    prose(answer, solution)
}

/// Equal words, with or without spaces; or a place with and without its preposition.
fn same_words(answer: &str, solution: &str, question: &Question) -> Option<Verdict> {
    let (a, b) = (words(answer), words(solution));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let is_code = question.reading == question::Reading::Code;
    // A sign in front of a letter or a number is read further on: `C++`, `v1.10`.
    let letters = |text: &str| text.chars().all(|c| c.is_alphabetic() || c == ' ');
    let joined = |text: &str| text.replace(' ', "");
    let formula = |text: &str| text.contains(['+', '=', '^', '*', '/', ':', '<', '>', '≤', '≥']);
    let are_joined = joined(&a) == joined(&b)
        && ((letters(&a) && a.len() >= 6 && !is_code)
            || (formula(&a) && formula(&b) && a.len().abs_diff(b.len()) < 64));
    let placed = |text: &str, other: &str| {
        PREPOSITIONS.iter().any(|word| text.strip_prefix(word).and_then(|rest| rest.strip_prefix(' ')) == Some(other))
    };
    let decorated = |text: &str, other: &str| {
        [" in color", " color", " colored"].iter().any(|end| text.strip_suffix(end) == Some(other))
    };
    let is_same = a == b || are_joined || [(&a, &b), (&b, &a)].iter().any(|(x, y)| placed(x, y) || decorated(x, y));
    is_same.then_some(Verdict::Same)
}

/// Whether one is a bare yes or no (true or false), and the other says so first.
fn yes_or_no(answer: &str, solution: &str) -> Option<Verdict> {
    let (a, b) = (words(answer), words(solution));
    let said = |text: &str| {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        let next = rest.split(' ').next().unwrap_or_default();
        let continues =
            ["", "it", "there", "he", "she", "they", "i", "we", "you", "this", "that", "these", "those", "the", "a"];
        // `Yes, …` lost its comma with the other punctuation, so what follows has to begin a sentence.
        let is_clear = continues.contains(&next) && !rest.contains(" or ");
        ["yes", "no", "true", "false"].iter().find(|word| **word == first && is_clear).copied()
    };
    let is_bare = |text: &str| ["yes", "no", "true", "false"].contains(&text);
    if !is_bare(&a) && !is_bare(&b) {
        return None;
    }
    let kind = |word: &str| matches!(word, "yes" | "no");
    match (said(&a), said(&b)) {
        (Some(a), Some(b)) if kind(a) == kind(b) => Some(Verdict::of(a == b)),
        _ => Some(Verdict::unknown("one answer is yes or no, the other is not clear")),
    }
}

/// Numbers, formulas and collections.
fn values(answer: &str, solution: &str, question: &Question) -> Option<Verdict> {
    let (a, b) = (Assigned::read(answer), Assigned::read(solution));
    match (a, b) {
        (Some(a), Some(b)) => {
            // A code's digits are compared as they are, unless both are plain.
            let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            if question.reading == question::Reading::Code && !(is_plain(answer) && is_plain(solution)) {
                return Some(Verdict::of(words(answer) == words(solution)));
            }
            // A fraction is no number where the parts of a date or score are asked for.
            let is_parted = |text: &str| text.contains('/') && !text.contains('\\') && a.value.is_number();
            if question.reading == question::Reading::Parts && (is_parted(answer) || is_parted(solution)) {
                return Some(Verdict::Different);
            }
            Some(match a.same(&b, question.asks_order) {
                Some(is_same) => Verdict::of(is_same),
                None => Verdict::unknown("the formulas have no values to compare"),
            })
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let unread = if Assigned::read(answer).is_none() { answer } else { solution };
            let is_formula = unread.contains(['\\', '^', '=']);
            let has_digits = unread.contains(|c: char| c.is_ascii_digit());
            match (is_formula, has_digits) {
                (true, _) => Some(Verdict::unknown("no rule reads the formula")),
                (false, true) => None,
                (false, false) => None,
            }
        }
    }
}

/// Lists of words, element by element; `None` where neither is a list.
fn lists(answer: &str, solution: &str, are_latex: bool, question: &Question) -> Option<Verdict> {
    let (a, b) = (split_list(answer, Separators::Words), split_list(solution, Separators::Words));
    if a.len() < 2 || b.len() < 2 || a.len() != b.len() {
        return None;
    }
    let each: Vec<Verdict> = a.iter().zip(&b).map(|(a, b)| compare(a, b, are_latex, question)).collect();
    if each.contains(&Verdict::Different) {
        return Some(Verdict::Different);
    }
    each.into_iter().find(|verdict| *verdict != Verdict::Same).or(Some(Verdict::Same))
}

/// What is left: texts that are not the same word for word.
fn prose(answer: &str, solution: &str) -> Verdict {
    let (a, b) = (words(answer), words(solution));
    if b.split(' ').count() > PROSE_WORDS {
        return Verdict::unknown("no rule can compare prose");
    }
    let holds = |text: &str, part: &str| format!(" {text} ").contains(&format!(" {part} "));
    if !a.is_empty() && !b.is_empty() && (holds(&a, &b) || holds(&b, &a)) {
        return Verdict::unknown("one text holds the other among more words");
    }
    let is_plural = |text: &str, other: &str| text.strip_suffix('s') == Some(other);
    if is_plural(&a, &b) || is_plural(&b, &a) {
        return Verdict::unknown("one text may be the plural of the other");
    }
    if [answer, solution].iter().any(|text| text.contains('\\')) {
        return Verdict::unknown("no rule reads the formula");
    }
    Verdict::Different
}

/// The number that an answer says, with its unit taken off; a percentage as the number before its sign.
pub fn number(answer: &str) -> Option<f64> {
    let answer = canonical(tagged(answer));
    readings(&answer).iter().rev().find_map(|text| Assigned::read(text)?.number())
}

/// Whether two answers to a question are the same by a rule.
pub fn same(answer: &str, solution: &str, question: &str) -> bool {
    judge(answer, solution, &Question::read(question)) == Verdict::Same
}
