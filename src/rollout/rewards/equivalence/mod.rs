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
pub(super) use value::{Separators, split_list};

use text::{canonical, trimmed, without_latex};
use value::Assigned;

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
const OPENINGS: [&str; 80] = [
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
    "ans:",
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
    "result:",
    "i choose",
    "i would choose",
    "i pick",
    "i select",
    "i'd go with",
    "i would go with",
    "i'll go with",
    "i think",
    "i believe",
    "i would say",
    "i count",
    "i see",
    "i can see",
    "we see",
    "we can see",
    "it must be",
    "definitely",
    "clearly",
    "therefore",
    "thus",
    "hence",
    "so",
    "it is",
    "it's",
    "this is",
    "that is",
    "it says:",
    "la respuesta es",
    "respuesta:",
    "la réponse est",
    "réponse :",
    "réponse:",
    "die antwort ist",
    "antwort:",
    "正确答案是",
    "正确答案为",
    "正确答案:",
    "答案是",
    "答案为",
    "答案",
    "选项",
    "选择",
    "选",
    "是",
    "答えは",
    "正解は",
    "の答えは",
];
/// Ends of sentences that carry nothing.
const CLOSINGS: [&str; 3] = ["です", "だ", "吗"];
/// Nouns in front of a number or a letter that it belongs to: `Route 66`, `Point A`.
const LABELS: [&str; 46] = [
    "size", "room", "route", "gate", "page", "pages", "pp", "p", "point", "platform", "line", "bus", "number", "no",
    "nr", "seat", "flight", "floor", "level", "question", "figure", "step", "channel", "zip", "isbn", "tel", "phone",
    "s/n", "serial", "type", "grade", "group", "section", "class", "zone", "terminal", "lane", "exit", "age", "ages",
    "aged", "chapter", "version", "model", "track", "pin",
];
/// Subjects of a sentence whose end is the answer: `The sign says STOP`.
const SUBJECTS: [&str; 14] =
    ["the", "this", "that", "these", "those", "it", "there", "they", "he", "she", "a", "an", "its", "we"];
/// Verbs of such a sentence.
const VERBS: [&str; 15] = [
    " is ",
    " are ",
    " was ",
    " were ",
    " says ",
    " say ",
    " reads ",
    " read ",
    " shows ",
    " equals ",
    " = ",
    " see ",
    " has ",
    " leaves at ",
    " costs ",
];
/// Words of a label that deny what follows.
const DENYING: [&str; 6] = ["not", "wrong", "incorrect", "except", "without", "never"];
/// Words that put a place or time in front of a noun.
const PREPOSITIONS: [&str; 7] = ["to the", "on the", "in the", "at the", "in", "on", "at"];
/// Words with which a reason or a correction begins.
const EXPLANATIONS: [&str; 11] = [
    ", not ",
    " because ",
    ", because ",
    ", since ",
    ", as ",
    " rather than ",
    " are in ",
    " is in ",
    " are visible",
    " are shown",
    " in this ",
];
/// Words behind which a conclusion stands. A text with two of them contradicts itself, perhaps.
const CONCLUSIONS: [&str; 7] = [
    ", so ",
    ", therefore ",
    ", thus ",
    ", hence ",
    "the answer is ",
    "the final answer is ",
    "the correct answer is ",
];
/// Words in a bracket that make an answer open.
const OPEN: [&str; 7] = ["or", "maybe", "perhaps", "possibly", "either", "also", "and"];

/// What the rules say of an answer to a question beside a solution.
pub fn judge(answer: &str, solution: &str, question: &Question) -> Verdict {
    let (answer, solution) = (tagged(answer), tagged(solution));
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
    let (answers, solutions) = (Readings::of(&answer), Readings::of(&solution));
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

/// What stands between the last `<answer>` and `</answer>`, if anything does.
fn tagged(text: &str) -> &str {
    let inside = text.rsplit_once("<answer>").map_or(text, |(_, inside)| inside);
    inside.split("</answer>").next().unwrap_or(inside).trim()
}

/// What a canonical text may mean.
struct Readings {
    /// From the whole of it to the plainest: without openings, the last `\\boxed`, without a reason behind it.
    plain: Vec<String>,
    /// What a sentence like `The sign says STOP` says of its subject.
    predicate: Vec<String>,
}

impl Readings {
    fn of(text: &str) -> Self {
        let plain = readings(text);
        let mut predicate = Vec::new();
        if let Some((subject, end)) = plain.last().and_then(|text| predicate_of(text)) {
            let end = trimmed(without_openings(end)).to_owned();
            predicate.extend(labelled(&end).map(str::to_owned));
            predicate.push(end);
            let is_generic = matches!(subject.as_str(), "it" | "there" | "this" | "that" | "they");
            if is_generic {
                return Self { plain: [plain, predicate].concat(), predicate: Vec::new() };
            }
        }
        Self { plain, predicate }
    }
}

fn readings(text: &str) -> Vec<String> {
    let mut boxes = text.match_indices("\\boxed{").filter_map(|(at, mark)| {
        let inner = &text[at + mark.len()..];
        text::closing_brace(inner).map(|end| (at, &inner[..end]))
    });
    // A box is the answer if nothing around it denies it, and no other box says something else.
    let boxed = boxes.next().filter(|(at, first)| {
        let around = text[..*at].to_lowercase() + " " + &text[at + first.len()..].to_lowercase();
        let denies = |word: &str| {
            word.ends_with("n't") || ["not", "or", "wrong", "incorrect", "never", "either"].contains(&word)
        };
        boxes.all(|(_, other)| other == *first)
            && !around.split(|c: char| !c.is_alphanumeric() && c != '\'').any(denies)
    });
    let boxed = boxed.map(|(_, inner)| without_latex(inner));
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
    let mut short = without_openings(&whole);
    add(short);
    if let Some(rest) = labelled(short) {
        add(rest);
        short = without_openings(rest);
    }
    // `It's not 7 but 8`.
    if let Some((_, rest)) = short.split_once(" but ").filter(|(before, _)| before.starts_with("not ")) {
        short = without_openings(rest);
        add(short);
    }
    if let Some(rest) = concluded(short) {
        short = without_openings(rest);
        add(short);
    }
    let explained = EXPLANATIONS.iter().filter_map(|word| short.split_once(word)).map(|(before, _)| before);
    short = explained.min_by_key(|before| before.len()).unwrap_or(short);
    add(short);
    if let Some(before) = without_bracket(short) {
        short = before;
        add(short);
    }
    found
}

/// What follows a label: a noun in front of a number or letter (`Route 66`), or a few words and a colon (`ISBN: …`).
fn labelled(text: &str) -> Option<&str> {
    if let Some((label, rest)) = text.split_once(':') {
        let words: Vec<String> = label.split_whitespace().map(str::to_lowercase).collect();
        let is_label = |word: &String| {
            word.chars().all(|c| c.is_alphabetic() || "/.#".contains(c))
                && word.chars().count() > 1
                && !DENYING.contains(&word.as_str())
        };
        if (1..=3).contains(&words.len()) && words.iter().all(is_label) && !rest.trim().is_empty() {
            return Some(rest.trim());
        }
    }
    if let Some(rest) = text.strip_prefix('#') {
        return rest.starts_with(|c: char| c.is_ascii_digit()).then_some(rest);
    }
    let (label, rest) = text.split_once(' ')?;
    let is_label = LABELS.contains(&label.trim_end_matches('.').to_lowercase().as_str());
    let is_letter = rest.len() == 1 && rest.starts_with(|c: char| c.is_ascii_uppercase()) && label != "no";
    (is_label && (is_letter || rest.contains(|c: char| c.is_ascii_digit()))).then_some(rest.trim())
}

/// What follows the only conclusion of a text: `There are 3 men and 4 women, so 7 people`.
fn concluded(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let mut places = CONCLUSIONS.iter().flat_map(|word| lower.match_indices(word).map(|(at, word)| at + word.len()));
    let end = places.next()?;
    // `, so the answer is` is one conclusion with two beginnings.
    let near = |last: usize, place: usize| (place.abs_diff(last) <= 24).then_some(last.max(place));
    Some(&text[places.try_fold(end, near)?..])
}

/// What stands before a bracket at the end that explains it: `7 (seven)`, `7 (not 8)`. A bracket that says something else stays.
fn without_bracket(text: &str) -> Option<&str> {
    let (before, inside) = text.strip_suffix(')')?.rsplit_once(" (")?;
    let inner: Vec<String> = inside.split_whitespace().map(str::to_lowercase).collect();
    let is_open = inner.first().is_some_and(|word| OPEN.contains(&word.as_str()));
    let bare = before.trim_matches(|c: char| !c.is_alphanumeric());
    let is_letter = bare.len() == 1 && bare.starts_with(|c: char| c.is_ascii_alphabetic());
    let values = [before, inside].map(Assigned::read);
    let is_other = match &values {
        [Some(before), Some(inside)] => before.same(inside, false) != Some(true),
        [_, Some(_)] => true,
        _ => false,
    };
    (!before.trim().is_empty() && !is_open && !is_letter && !is_other && !inner.is_empty()).then_some(before)
}

/// Without the openings that carry nothing.
fn without_openings(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let rest = OPENINGS.iter().filter_map(|opening| after_opening(text, opening)).min_by_key(|rest| rest.len());
        match rest {
            Some(rest) => text = rest.trim_start_matches([':', ',', ' ', '\n', '\t']),
            None => return CLOSINGS.iter().find_map(|closing| text.strip_suffix(closing)).unwrap_or(text),
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

/// The subject of a short sentence in lower case, and what is said of it: `STOP` of `The sign says STOP`, `5` of `x is 5`.
fn predicate_of(text: &str) -> Option<(String, &str)> {
    let (at, verb) = VERBS.iter().filter_map(|verb| text.find(verb).map(|at| (at, verb))).min()?;
    let subject = text[..at].to_lowercase();
    let words: Vec<&str> = subject.split_whitespace().collect();
    let is_article = matches!(words.first(), Some(&("a" | "an")));
    let is_letter = subject.chars().count() == 1 && text.starts_with(|c: char| c.is_lowercase());
    // `x = 5` says to which variable, and stays whole.
    let is_variable = is_letter && *verb != " = ";
    let is_subject = words.first().is_some_and(|first| SUBJECTS.contains(first)) && (words.len() > 1 || !is_article);
    let is_denial = |word: &&str| {
        word.ends_with("n't")
            || ["not", "or", "no", "neither", "opposite", "never", "hardly", "rarely", "cannot"].contains(word)
    };
    let end = text[at + verb.len()..].trim();
    ((is_variable || is_subject) && words.len() <= 8 && !words.iter().any(is_denial)).then_some((subject, end))
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
    let day = |text: &str| WEEKDAYS.iter().position(|day| text.len() >= 3 && day.starts_with(text));
    let is_day = question.reading == question::Reading::Parts && day(&a).is_some() && day(&a) == day(&b);
    let near = |x: &str, y: &str| {
        let bare = |text: &str| text.strip_suffix(" side").unwrap_or(text).to_owned();
        placed(x, y) || decorated(x, y) || placed(&bare(x), y)
    };
    let is_same = a == b || are_joined || is_day || numerals(&a) == numerals(&b) || near(&a, &b) || near(&b, &a);
    is_same.then_some(Verdict::Same)
}

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

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
    use question::Reading;
    // Scores and dates in a list are compared one by one.
    if literal::is_list(answer, question) || literal::is_list(solution, question) {
        return None;
    }
    let is_none = |text: &str| {
        let words = words(text);
        let counted = words.strip_prefix("no ").is_some_and(|noun| noun.ends_with('s') || noun == "people");
        question.asks_count && (matches!(&*words, "none" | "no" | "nothing" | "nobody" | "no one") || counted)
    };
    let read = |text: &str| match text {
        _ if is_none(text) => Assigned::read("0"),
        // Two numbers of a point or box are no thousands.
        _ if question.asks_coordinates && !text.contains(' ') => Assigned::read(&text.replace(',', ", ")),
        _ => Assigned::read(text),
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
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let begins_with_zero = |text: &str| text.len() > 1 && text.starts_with('0');
    let letters = |text: &str| text.to_lowercase().chars().filter(|c| c.is_alphabetic()).collect::<String>();
    let is_computed = |text: &str| text.contains(['/', '+', '*', '^', '×', '÷', '!', '√', '|']);
    match question.reading {
        // A code's digits are compared as they are, unless both are plain.
        Reading::Code => {
            let are_plain = [answer, solution].iter().all(|text| is_plain(text) && !begins_with_zero(text));
            if !are_plain {
                return Some(Verdict::of(words(answer) == words(solution)));
            }
        }
        // A fraction is no number where the parts of a date or score are asked for, and where a text is.
        Reading::Parts | Reading::Text => {
            let is_parted = |text: &str| text.contains('/') && !text.contains('\\');
            let is_text = question.reading == Reading::Text;
            if (is_parted(answer) || is_parted(solution)) && a.value.is_number()
                || is_text && (is_computed(answer) || is_computed(solution))
            {
                return Some(Verdict::Different);
            }
            if is_text && letters(answer) != letters(solution) {
                let same = a.same(&b, question.asks_order) == Some(true);
                return Some(if same {
                    Verdict::unknown("the text that is asked for is written in another way")
                } else {
                    Verdict::Different
                });
            }
        }
        Reading::Mathematics | Reading::Open => {}
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
    let answer = canonical(tagged(answer));
    let Readings { plain, predicate } = Readings::of(&answer);
    let found = plain.iter().chain(&predicate).rev().find_map(|text| Some(Assigned::read(text)?.numbers()));
    found.unwrap_or_default()
}

/// Whether two answers to a question are the same by a rule.
pub fn same(answer: &str, solution: &str, question: &str) -> bool {
    judge(answer, solution, &Question::read(question)) == Verdict::Same
}
