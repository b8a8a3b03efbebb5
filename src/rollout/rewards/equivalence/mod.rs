//! Whether two answers to a question are the same, by rule: the same words, the same option, the same date, time, range or code, the same
//! value. A rule that would have to guess says so.

mod choice;
mod expression;
mod interpretations;
mod literal;
mod number;
mod question;
mod text;
mod unit;
mod value;
mod verdict;

use question::DigitForm;
pub use question::Question;
pub(super) use text::{is_ideograph, words};
pub(super) use value::{Separators, split_list};
pub use verdict::Verdict;

use interpretations::Interpretations;
use text::{canonical, trimmed};
use value::Assigned;

const ANOTHER_WAY: &str = "what is asked for is written in another way";
/// Longest text that rules other than equality look at, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// Pairs of tags around an answer that are taken away.
const TAGS_MAX: usize = 8;
/// A text of more words than this is prose.
const PROSE_WORDS: usize = 8;

/// Words that put a place or time in front of a noun.
const PREPOSITIONS: [&str; 7] = ["to the", "on the", "in the", "at the", "in", "on", "at"];
/// What the rules say of an answer to a question beside a solution.
pub fn judge(answer: &str, solution: &str, question: &Question) -> Verdict {
    let (answer, solution) = (untagged(answer), tagged(solution));
    if answer == solution && !answer.is_empty() {
        return Verdict::Same;
    }
    if question.asks_exact {
        return Verdict::of(trimmed(answer) == trimmed(solution));
    }
    let conclusion = if answer.len() > TEXT_BYTES_MAX { conclusion_of(answer) } else { Some(answer) };
    let Some(answer) = conclusion.filter(|_| solution.len() <= TEXT_BYTES_MAX) else {
        return Verdict::unknown("the text is too long for a rule");
    };
    let (answer, solution) = (canonical(answer), canonical(solution));
    let (answers, solutions) = (Interpretations::of(&answer), Interpretations::of(&solution));
    let are_latex = literal::are_latex(&answer, &solution);
    let mut verdicts = Vec::new();
    // What a sentence says of its subject is the answer only where the other side names no subject: `The man is tall` is not `The woman is tall`.
    let own = answers.plain.iter().chain(&answers.predicate).flat_map(|a| solutions.plain.iter().map(move |b| (a, b)));
    let theirs = answers.plain.iter().flat_map(|a| solutions.predicate.iter().map(move |b| (a, b)));
    for (answer, solution) in own.chain(theirs) {
        match compare(answer, solution, are_latex, question) {
            Verdict::Same => return Verdict::Same,
            verdict => verdicts.push(verdict),
        }
    }
    // The plainest reading of both decides, but for prose of which a rule sees no more than a part.
    let is_prose = words(&solution).split(' ').count() > PROSE_WORDS;
    match verdicts.first() {
        Some(Verdict::Unknown(reason)) if is_prose => Verdict::Unknown(reason.clone()),
        _ => verdicts.pop().unwrap_or(Verdict::Different),
    }
}

/// The conclusion at the end of a long text: what follows its last `answer is`, or its last `\\boxed`.
fn conclusion_of(text: &str) -> Option<&str> {
    let start = (text.len() - TEXT_BYTES_MAX / 4..text.len()).find(|&at| text.is_char_boundary(at))?;
    let end = &text[start..];
    let marks = ["answer is ", "Answer: ", "\\boxed{"];
    let (at, mark) = marks.iter().filter_map(|mark| Some((end.rfind(mark)?, mark))).max()?;
    Some(if mark.ends_with('{') { &end[at..] } else { &end[at + mark.len()..] })
}

/// An answer without the tags around the whole of it. Tags inside it stay: it is then no plain answer.
fn untagged(answer: &str) -> &str {
    let mut answer = answer.trim();
    for _ in 0..TAGS_MAX {
        let inner = answer.strip_prefix("<answer>").unwrap_or(answer);
        let inner = inner.strip_suffix("</answer>").unwrap_or(inner).trim();
        if inner.len() == answer.len() {
            return answer;
        }
        if inner.contains("<answer>") != inner.contains("</answer>") && !inner.starts_with("<answer>") {
            return answer;
        }
        answer = inner;
    }
    answer
}

/// What stands between the last `<answer>` and `</answer>`, if anything does.
fn tagged(text: &str) -> &str {
    let inside = text.rsplit_once("<answer>").map_or(text, |(_, inside)| inside);
    inside.split("</answer>").next().unwrap_or(inside).trim()
}

/// One reading of the answer beside one of the solution.
fn compare(answer: &str, solution: &str, are_latex: bool, question: &Question) -> Verdict {
    if let Some(verdict) = same_words(answer, solution, question) {
        return verdict;
    }
    if let Some(verdict) = choice::compare(answer, solution, question) {
        return verdict;
    }
    if let Some(verdict) = yes_or_no(answer, solution) {
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
    if restates(answer, solution, question) {
        return Verdict::Same;
    }
    prose(answer, solution)
}

/// Whether an answer says the solution in the question's own words: `The rate peaked in 2009.` to `In which year did the rate peak?`
fn restates(answer: &str, solution: &str, question: &Question) -> bool {
    const CARRIED: &str =
        "the a an is are was were be it there in on at of to that this do does did has have and by for with";
    const DENYING: &str =
        "not no or never neither nor cannot hardly but than isnt arent wasnt werent doesnt dont didnt cant wont hasnt";
    let (said, wanted) = (words(answer), words(solution));
    let pieces: Vec<&str> = said.split(' ').collect();
    let is_open = |word: &&str| DENYING.split(' ').any(|denying| denying == *word);
    if pieces.len() <= wanted.split(' ').count() || !question.options.is_empty() || pieces.iter().any(is_open) {
        return false;
    }
    let is_carried = |word: &&&str| CARRIED.split(' ').any(|carried| carried == **word) || question.says(word);
    let rest: Vec<&str> = pieces.iter().filter(|word| !is_carried(word)).copied().collect();
    !rest.is_empty() && (rest.join(" ") == wanted || numerals(&rest.join(" ")) == numerals(&wanted))
}

/// Equal words, with or without spaces; or a place with and without its preposition.
fn same_words(answer: &str, solution: &str, question: &Question) -> Option<Verdict> {
    let (a, b) = (words(answer), words(solution));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let is_code = question.digits == DigitForm::Code;
    // A sign in front of a letter or a number is read further on: `C++`, `v1.10`.
    let letters = |text: &str| text.chars().all(|c| c.is_alphabetic() || c == ' ');
    let joined = |text: &str| text.replace(' ', "");
    // The space of `1 3/4` is no dressing.
    let has_split_number = |text: &str| {
        let characters: Vec<char> = text.chars().collect();
        characters.windows(3).any(|three| three[0].is_ascii_digit() && three[1] == ' ' && three[2].is_ascii_digit())
    };
    let formula =
        |text: &str| text.contains(['+', '=', '^', '*', '/', ':', '<', '>', '≤', '≥', '°']) && !has_split_number(text);
    let are_joined = joined(&a) == joined(&b)
        && ((letters(&a) && a.len() >= 6 && !is_code)
            || (formula(&a) && formula(&b) && a.len().abs_diff(b.len()) < 64));
    let (bare, other) = (trimmed(answer), trimmed(solution));
    if a == b && bare != other {
        if question.asks_symbol && a.len() <= 4 && bare.eq_ignore_ascii_case(other) {
            return Some(Verdict::unknown("the case of a symbol's letters counts"));
        }
        // `!B` is no `B`, and the case of a unit's prefix counts.
        let is_letter = a.chars().count() == 1 && !bare.eq_ignore_ascii_case(other);
        let symbol = |text: &'_ str| text.rfind(|c: char| !c.is_alphabetic()).map_or(0, |at| at + 1);
        let is_measured = a.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        let differ = || unit::differ_in_prefix(&bare[symbol(bare)..], &other[symbol(other)..]);
        if is_letter || (is_measured && differ()) {
            return None;
        }
    }
    let placed = |text: &str, other: &str| {
        PREPOSITIONS.iter().any(|word| text.strip_prefix(word).and_then(|rest| rest.strip_prefix(' ')) == Some(other))
    };
    let decorated = |text: &str, other: &str| {
        [" in color", " color", " colored", " side"].iter().any(|end| text.strip_suffix(end) == Some(other))
    };
    let days = (literal::weekday(&a), literal::weekday(&b));
    let is_day = question.digits == DigitForm::Parts && days.0.is_some() && days.0 == days.1;
    let near = |x: &str, y: &str| {
        let bare = |text: &str| text.strip_suffix(" side").unwrap_or(text).to_owned();
        placed(x, y) || decorated(x, y) || placed(&bare(x), y)
    };
    let is_same = a == b || are_joined || is_day || numerals(&a) == numerals(&b) || near(&a, &b) || near(&b, &a);
    is_same.then_some(Verdict::Same)
}

/// Folded words with digits for the names of numbers: `19th century`.
fn numerals(text: &str) -> String {
    let numeral = |word: &str| match number::spoken(&[word]) {
        Some((value, 1)) if number::is_ordinal(word) => format!("{}th", value.value()),
        Some((value, 1)) if value.is_integer() => value.value().to_string(),
        _ => number::ordinal_digits(word).map_or(word.to_owned(), |value| format!("{}th", value.value())),
    };
    text.split(' ').map(numeral).collect::<Vec<_>>().join(" ")
}

/// Whether two texts are the same without being options: the same words, literal or value.
fn same_text(a: &str, b: &str, question: &Question) -> bool {
    let is_same = |verdict: Option<Verdict>| verdict == Some(Verdict::Same);
    is_same(same_words(a, b, question)) || is_same(yes_or_no(a, b)) || {
        let literal = literal::compare(a, b, false, question);
        if literal.is_some() { is_same(literal) } else { is_same(values(a, b, question)) }
    }
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
        let plain = match first {
            "yep" | "yeah" | "yup" => "yes",
            "nope" | "nah" => "no",
            other => other,
        };
        ["yes", "no", "true", "false"].iter().find(|word| **word == plain && is_clear).copied()
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
    // Scores and dates in a list are compared one by one.
    if literal::is_list(answer, question) || literal::is_list(solution, question) {
        return None;
    }
    let is_none = |text: &str| {
        let words = words(text);
        let counted = words.strip_prefix("no ").is_some_and(|noun| noun.ends_with('s') || noun == "people");
        question.asks_count && (matches!(&*words, "none" | "no" | "nothing" | "nobody" | "no one") || counted)
    };
    let read = |text: &str| {
        let text = question.without_asked(text);
        match text {
            _ if is_none(text) => Assigned::read("0"),
            // Two numbers of a point or box are no thousands.
            _ if question.asks_coordinates && !text.contains(' ') => Assigned::read(&text.replace(',', ", ")),
            _ => Assigned::read(text),
        }
    };
    let (a, b) = match (read(answer), read(solution)) {
        (Some(a), Some(b)) => (a, b),
        (None, None) => return None,
        _ => {
            let unread = if Assigned::read(answer).is_none() { answer } else { solution };
            return unread.contains(['\\', '^', '=']).then(|| Verdict::unknown("no rule reads the formula"));
        }
    };
    if question.asks_count && a.is_ordinal() != b.is_ordinal() {
        return Some(Verdict::Different);
    }
    if let Some(verdict) = a.against_asked(&b, question) {
        return Some(verdict);
    }
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let begins_with_zero = |text: &str| text.len() > 1 && text.starts_with('0');
    let letters = |text: &str| text.to_lowercase().chars().filter(|c| c.is_alphabetic()).collect::<String>();
    let is_computed = |text: &str| text.contains(['/', '+', '*', '^', '×', '÷', '!', '√', '|']);
    match question.digits {
        // A code's digits are compared as they are, unless both are plain.
        DigitForm::Code => {
            let are_plain = [answer, solution].iter().all(|text| is_plain(text) && !begins_with_zero(text));
            // LaTeX is mathematics.
            if !are_plain && !answer.contains('\\') && !solution.contains('\\') {
                let same = a.same(&b, question.asks_order) == Some(true);
                return Some(if same { Verdict::unknown(ANOTHER_WAY) } else { Verdict::Different });
            }
        }
        // A fraction is no number where the parts of a date or score are asked for, and where a text is.
        DigitForm::Parts | DigitForm::Text => {
            let is_parted = |text: &str| text.contains('/') && !text.contains('\\');
            let is_text = question.digits == DigitForm::Text;
            // LaTeX is mathematics.
            let has_latex = answer.contains('\\') || solution.contains('\\');
            let is_split = !has_latex && (is_parted(answer) || is_parted(solution)) && a.value.is_number();
            if is_split || is_text && (is_computed(answer) || is_computed(solution)) {
                let same = a.same(&b, question.asks_order) == Some(true);
                return Some(if same { Verdict::unknown(ANOTHER_WAY) } else { Verdict::Different });
            }
            if is_text && letters(answer) != letters(solution) {
                let same = a.same(&b, question.asks_order) == Some(true);
                return Some(if same { Verdict::unknown(ANOTHER_WAY) } else { Verdict::Different });
            }
        }
        DigitForm::Mathematics | DigitForm::Open => {}
    }
    Some(match a.same(&b, question.asks_order) {
        Some(is_same) => Verdict::of(is_same),
        None => Verdict::unknown("the formulas have no values to compare"),
    })
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

/// The numbers that an answer may mean, with the unit taken off: one, but for a percentage, which is also a share; none where it is no number.
pub fn numbers(answer: &str) -> Vec<f64> {
    let answer = untagged(answer);
    if answer.len() > TEXT_BYTES_MAX {
        return Vec::new();
    }
    let answer = canonical(answer);
    let Interpretations { plain, predicate } = Interpretations::of(&answer);
    let found = plain.iter().chain(&predicate).rev().find_map(|text| Some(Assigned::read(text)?.numbers()));
    found.unwrap_or_default()
}
