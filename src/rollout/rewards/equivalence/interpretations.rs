//! What a canonical text may mean, from the whole of it to the plainest: models put words around their answers.

use super::text::{closing_brace, trimmed, without_latex};
use super::value::Assigned;

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
const DENYING_LABELS: [&str; 6] = ["not", "wrong", "incorrect", "except", "without", "never"];
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
/// Words that a conclusion follows. A text with two of them contradicts itself, perhaps.
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

/// What a canonical text may mean.
pub(super) struct Interpretations {
    /// From the whole of it to the plainest: without openings, the last `\\boxed`, without a reason after it.
    pub(super) plain: Vec<String>,
    /// What a sentence like `The sign says STOP` says of its subject.
    pub(super) predicate: Vec<String>,
}

impl Interpretations {
    pub(super) fn of(text: &str) -> Self {
        let plain = interpretations(text);
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

fn interpretations(text: &str) -> Vec<String> {
    let mut boxes = text.match_indices("\\boxed{").filter_map(|(at, mark)| {
        let inner = &text[at + mark.len()..];
        closing_brace(inner).map(|end| (at, &inner[..end]))
    });
    // A box is the answer if nothing around it denies it, and no other box says something else.
    let boxed = boxes.next().filter(|(at, first)| {
        let behind = &text[at + "\\boxed{".len() + first.len()..];
        let around = text[..*at].to_lowercase() + " " + &behind.to_lowercase();
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
                && !DENYING_LABELS.contains(&word.as_str())
        };
        if (1..=3).contains(&words.len()) && words.iter().all(is_label) && !rest.trim().is_empty() {
            return Some(rest.trim());
        }
    }
    if let Some(rest) = text.strip_prefix('#') {
        return rest.starts_with(|c: char| c.is_ascii_digit()).then_some(rest);
    }
    let (label, rest) = text.split_once(' ')?;
    let bare = label.trim_end_matches('.').to_lowercase();
    // `No. 6` is a number, `no 6 cups` are none.
    let is_abbreviated = label.ends_with('.') || !matches!(bare.as_str(), "no" | "nr" | "p" | "pp");
    let is_label = is_abbreviated && LABELS.contains(&bare.as_str());
    let is_letter = rest.len() == 1 && rest.starts_with(|c: char| c.is_ascii_uppercase());
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
