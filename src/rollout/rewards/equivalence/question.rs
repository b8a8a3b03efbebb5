//! What a question says about the form of its answer: its options, whether an order is asked for, and whether digits with signs between
//! them are a date, a time, a score and so on, or mathematics.

use std::ops::RangeInclusive;

use super::number::{Number, scale, spoken};
use super::text::{canonical, without_latex};
use super::unit::{Unit, singular};

/// Longest question that is read, in bytes.
const QUESTION_BYTES_MAX: usize = 32 << 10;

/// How digits with signs between them are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigitForm {
    /// The question asks for a result, a fraction, a ratio: they are computed.
    Mathematics,
    /// The question asks for a date, time, score, size or range: they are compared part by part.
    Parts,
    /// The question asks for a code, a phone number, a version: they are compared character by character.
    Code,
    /// The question asks what is written somewhere: texts are compared, and nothing is computed.
    Text,
    /// The question does not say: their own form decides.
    Open,
}

/// What a question says.
#[derive(Clone, Debug)]
pub struct Question {
    /// The listed options in order: letter and text.
    pub options: Vec<(char, String)>,
    /// Options with numbers in place of letters: label (`1`, `ii`) and text.
    pub numbered: Vec<(String, String)>,
    /// Whether the options' letters are small.
    pub has_small_letters: bool,
    /// Whether the question speaks of options that it may not list.
    pub speaks_of_options: bool,
    /// Whether a count is asked for.
    pub asks_count: bool,
    /// Whether a password or the like is asked for, of which each character counts.
    pub asks_exact: bool,
    /// Whether a chemical symbol or formula is asked for, in which the case of letters counts.
    pub asks_symbol: bool,
    /// The unit in which a number is asked for.
    pub unit: Option<Unit>,
    /// The scale in which a number is asked for: `in millions`.
    pub scale: Option<Number>,
    /// Its words in the singular, in lower case.
    words: Vec<String>,
    /// Whether a point, a pixel or a box is asked for.
    pub asks_coordinates: bool,
    /// Whether the order of a list counts.
    pub asks_order: bool,
    /// Whether a score or result of a game is asked for.
    pub asks_score: bool,
    /// How digits with signs between them are read.
    pub digits: DigitForm,
}

/// Words of a question for a result: digits with signs between them are computed.
const MATHEMATICS: [&str; 29] = [
    "fraction",
    "fractions",
    "ratio",
    "probability",
    "proportion",
    "percent",
    "percentage",
    "solve",
    "evaluate",
    "compute",
    "calculate",
    "simplify",
    "slope",
    "equation",
    "sum",
    "difference",
    "product",
    "quotient",
    "multiply",
    "divide",
    "expression",
    "plus",
    "minus",
    "gradient",
    "derivative",
    "integral",
    "times",
    "mixed number",
    "decimal",
];
/// Words of a question for a code.
const CODES: [&str; 32] = [
    "pin",
    "code",
    "codes",
    "serial",
    "phone",
    "telephone",
    "tel",
    "fax",
    "mobile",
    "zip",
    "zipcode",
    "postcode",
    "postal",
    "isbn",
    "issn",
    "barcode",
    "identifier",
    "id",
    "registration",
    "version",
    "flight",
    "gate",
    "room",
    "seat",
    "route",
    "password",
    "passport",
    "ip",
    "url",
    "model",
    "sku",
    "tracking",
];
/// The same, in more than a word.
const CODE_PHRASES: [&str; 13] = [
    "order number",
    "bus line",
    "bus number",
    "train number",
    "grade level",
    "license plate",
    "licence plate",
    "number plate",
    "plate number",
    "account number",
    "pin number",
    "license number",
    "licence number",
];
/// Words of a question for what is written somewhere.
const TEXTS: [&str; 24] = [
    "written",
    "printed",
    "inscribed",
    "inscription",
    "say",
    "says",
    "label",
    "logo",
    "brand",
    "text",
    "sign",
    "word",
    "words",
    "caption",
    "ocr",
    "jersey",
    "ticket",
    "plate",
    "formation",
    "tally",
    "iban",
    "case",
    "stamp",
    "engraved",
];
/// Words of a question that has options.
const OPTIONS: [&str; 10] = [
    "option",
    "options",
    "choice",
    "choices",
    "choose",
    "select",
    "following",
    "letter",
    "alternative",
    "alternatives",
];
/// Words of a question for a date, a time, a score, a size or a range.
const PARTS: [&str; 58] = [
    "date",
    "dates",
    "dated",
    "day",
    "birthday",
    "deadline",
    "expiry",
    "expire",
    "expires",
    "expiration",
    "born",
    "season",
    "seasons",
    "month",
    "when",
    "time",
    "clock",
    "hour",
    "hours",
    "o'clock",
    "duration",
    "score",
    "scores",
    "scoreline",
    "record",
    "size",
    "sizes",
    "dimension",
    "dimensions",
    "resolution",
    "measurements",
    "range",
    "ranges",
    "page",
    "pages",
    "chapter",
    "verse",
    "ages",
    "years",
    "schedule",
    "departure",
    "arrival",
    "pressure",
    "odds",
    "grid",
    "address",
    "apartment",
    "track",
    "inning",
    "scale",
    "lens",
    "thread",
    "matchup",
    "stars",
    "rating",
    "review",
    "episode",
    "vision",
];
/// Words of a question for an order.
const ORDERS: [&str; 42] = [
    "in order from",
    "in order of",
    "in the order",
    "correct order",
    "right order",
    "following order",
    "numerical order",
    "alphabetical order",
    "reading order",
    "order them",
    "order the",
    "what order",
    "which order",
    "the order of",
    "ordered",
    "sequence",
    "left to right",
    "right to left",
    "top to bottom",
    "bottom to top",
    "ascending",
    "descending",
    "smallest to largest",
    "largest to smallest",
    "increasing",
    "decreasing",
    "sort",
    "sorted",
    "rank",
    "ranked",
    "arrange",
    "chronological",
    "chronologically",
    "respectively",
    "clockwise",
    "counterclockwise",
    "steps",
    "first to last",
    "front to back",
    "row",
    "width",
    "height",
];
/// Words that say that no order counts.
const FREE_ORDERS: [&str; 6] = [
    "any order",
    "order does not matter",
    "order doesn't matter",
    "regardless of order",
    "regardless of the order",
    "no particular order",
];
/// Words of a question for a point, a box or a colour.
const COORDINATES: [&str; 13] = [
    "coordinates",
    "coordinate",
    "bounding box",
    "bbox",
    "box",
    "pixel",
    "position",
    "point",
    "latitude",
    "longitude",
    "rgb",
    "rgba",
    "hsv",
];
/// The same in Chinese.
const ORDERS_CHINESE: [&str; 4] = ["顺序", "依次", "从左到右", "从上到下"];

impl Question {
    /// Needs a question.
    pub fn read(question: &str) -> Self {
        let text = canonical(beginning(question));
        let lower = text.to_lowercase();
        let asked: Vec<&str> = lower
            .split(|c: char| !c.is_alphanumeric() && c != '\'')
            .map(|word| word.trim_matches('\''))
            .filter(|word| !word.is_empty())
            .collect();
        let spaced = format!(" {} ", asked.join(" "));
        let says = |phrase: &&str| spaced.contains(&format!(" {phrase} "));
        let mut digits = DigitForm::Open;
        if TEXTS.iter().any(says) {
            digits = DigitForm::Text;
        }
        if PARTS.iter().any(says) {
            digits = DigitForm::Parts;
        }
        if CODES.iter().chain(&CODE_PHRASES).any(says) {
            digits = DigitForm::Code;
        }
        let asks_count = ["how many", "how much", "number of", "count"].iter().any(says);
        let unit = asked_unit(&asked);
        if unit.is_some() || ["how many", "how much"].iter().any(says) {
            digits = DigitForm::Open;
        }
        if MATHEMATICS.iter().any(says) {
            digits = DigitForm::Mathematics;
        }
        let scale =
            asked.windows(2).filter(|pair| pair[0] == "in").find_map(|pair| scale(pair[1].trim_end_matches('s')));
        let words = asked.iter().map(|word| stem(&singular(word)).to_owned()).collect();
        let asks_coordinates = COORDINATES.iter().any(says);
        let asks_two = ["number of", "how many", "mean"].iter().any(says) && says(&"and");
        let is_first = |pair: &[&str]| matches!(pair[0], "first" | "next" | "last") && spoken(&pair[1..]).is_some();
        let counts_from = asked.windows(2).any(is_first);
        let is_free = FREE_ORDERS.iter().any(says);
        let says_order = ORDERS.iter().any(says) || ORDERS_CHINESE.iter().any(|words| lower.contains(words));
        let asks_order = !is_free && (asks_coordinates || asks_two || counts_from || says_order);
        let asks_score = ["score", "scores", "scoreline", "result", "record", "比分"].iter().any(says);
        let capital = options(&text, 'A'..='Z', &STYLES);
        let small = if capital.is_empty() { options(&text, 'a'..='z', &STYLES[..4]) } else { Vec::new() };
        let has_small_letters = !small.is_empty();
        let asks_symbol = ["symbol", "element", "formula", "chemical", "compound"].iter().any(says);
        let asks_exact = ["password", "passcode", "username", "captcha", "wifi key"].iter().any(says);
        let speaks_of_options = OPTIONS.iter().any(says);
        let numbered = if capital.is_empty() && small.is_empty() { numbered(&text) } else { Vec::new() };
        let options = [capital, small].concat();
        Self {
            options,
            numbered,
            has_small_letters,
            speaks_of_options,
            asks_count,
            asks_exact,
            asks_symbol,
            unit,
            scale,
            words,
            asks_coordinates,
            asks_order,
            asks_score,
            digits,
        }
    }

    /// Whether the question has a word, in the singular or the plural.
    pub fn says(&self, word: &str) -> bool {
        let singular = singular(word);
        self.words.iter().any(|said| said == stem(&singular))
    }

    /// A number's text without what the question asks for by the same words: `6 times` to `How many times …`, `$2.50 per hour`.
    pub fn without_asked<'a>(&self, text: &'a str) -> &'a str {
        let text = text.strip_suffix(" times").filter(|_| self.says("times")).unwrap_or(text);
        match text.rsplit_once(" per ") {
            Some((number, unit)) if self.says("per") && self.says(unit) => number,
            _ => text,
        }
    }

    /// The text of an option.
    pub fn option(&self, letter: char) -> Option<&str> {
        self.options.iter().find(|(listed, _)| *listed == letter).map(|(_, text)| text.as_str())
    }
}

/// The text as far as it is read.
fn beginning(text: &str) -> &str {
    let end = (0..=QUESTION_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// A word without the endings of plurals and tenses, nor an `e` before them.
fn stem(word: &str) -> &str {
    let ends = ["ing", "ed", "s", "e"];
    let stem = ends.iter().find_map(|end| word.strip_suffix(end).filter(|rest| rest.len() >= 3)).unwrap_or(word);
    stem.strip_suffix('e').filter(|rest| rest.len() >= 3).unwrap_or(stem)
}

/// The unit that a question names: `in hours`, `unit: years`, `how many meters`.
fn asked_unit(asked: &[&str]) -> Option<Unit> {
    let after = |at: usize| {
        (1..=3).rev().find_map(|count| {
            let words = asked.get(at..at + count)?;
            // Words of one or two letters are seldom units there.
            (words.iter().all(|word| word.len() > 2 || words.len() > 1))
                .then(|| Unit::named(&words.join(" ")))
                .flatten()
        })
    };
    (0..asked.len()).find_map(|at| match asked[at] {
        "in" | "unit" | "units" => after(at + 1),
        "many" if at > 0 && asked[at - 1] == "how" => after(at + 1),
        _ => None,
    })
}

/// What is before and after the letters of listed options.
const STYLES: [(&str, &str); 9] =
    [("(", ")"), ("[", "]"), ("", ")"), ("", "."), ("", ":"), ("", ","), ("", " -"), ("", " –"), ("<", ">")];

/// The options that a text lists with these letters, a line each or in a row: `A. cat`, `(B) dog`, `[C] cow`, `D: fox`; letters are given as
/// capitals. Empty for fewer than two.
fn options(text: &str, letters: RangeInclusive<char>, styles: &[(&str, &str)]) -> Vec<(char, String)> {
    let listed = styles.iter().map(|(open, close)| listed(text, letters.clone(), open, close));
    let best = listed.rev().max_by_key(Vec::len).unwrap_or_default();
    if best.len() < 2 { Vec::new() } else { best }
}

/// The options whose letters stand between `open` and `close`, from the first letter on without a gap.
fn listed(text: &str, letters: RangeInclusive<char>, open: &str, close: &str) -> Vec<(char, String)> {
    let mut marks: Vec<(char, usize, usize)> = Vec::new();
    let mut from = 0;
    for letter in letters {
        let mark = format!("{open}{letter}{close}");
        let begins = |at: usize| {
            let before = text[..at].chars().next_back();
            before.is_none_or(|c| c.is_whitespace() || ",;:?".contains(c))
        };
        let Some(at) = text[from..].match_indices(&mark).map(|(at, _)| from + at).find(|&at| begins(at)) else { break };
        marks.push((letter.to_ascii_uppercase(), at, at + mark.len()));
        from = at + mark.len();
    }
    let ends = marks.iter().skip(1).map(|(_, at, _)| *at).chain([text.len()]);
    let option = |(&(letter, _, start), end): (&(char, usize, usize), usize)| {
        // The last option of a row may be followed by other lines.
        let line = text[start..end].trim_start_matches(['.', ':', ')', ' ']).split('\n').next().unwrap_or_default();
        (letter, without_latex(line.trim().trim_end_matches([',', ';', '-', ' '])).trim().to_owned())
    };
    let options: Vec<(char, String)> = marks.iter().zip(ends).map(option).collect();
    // `Answer with A, B, C or D` lists letters alone.
    let is_bare = |text: &str| text.len() <= 1 || text.starts_with("and ") || text.starts_with("or ");
    if close == "," && options.iter().filter(|(_, text)| !is_bare(text)).count() < 2 { Vec::new() } else { options }
}

/// The options that a text lists with numbers from 1 on, or small Roman ones, a line each. Empty for fewer than two.
fn numbered(text: &str) -> Vec<(String, String)> {
    const ROMAN: [&str; 10] = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"];
    let arabic: Vec<String> = (1..=20).map(|number| number.to_string()).collect();
    let roman: Vec<String> = ROMAN.iter().map(|number| (*number).to_owned()).collect();
    for labels in [arabic, roman] {
        let mut found: Vec<(String, String)> = Vec::new();
        for line in text.lines().map(str::trim) {
            let Some(label) = labels.get(found.len()) else { break };
            let marked = [format!("({label})"), format!("{label}."), format!("{label})"), format!("[{label}]")];
            if let Some(rest) = marked.iter().find_map(|mark| line.strip_prefix(mark.as_str())) {
                found.push((label.clone(), rest.trim().to_owned()));
            }
        }
        if found.len() >= 2 {
            return found;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_the_forms_that_data_sets_write() {
        for text in [
            "Which?\nA. dog\nB. red fox\nC. cow",
            "Which? (A) dog (B) red fox (C) cow",
            "Which? A) dog, B) red fox, C) cow",
            "Which?\n(A) dog\n(B) red fox\n(C) cow\nAnswer with the letter.",
            "Which?\nA: dog\nB: red fox\nC: cow",
            "Which? Options: A. dog; B. red fox; C. cow",
            "哪个？\nA、dog\nB、red fox\nC、cow",
            "Which?\na) dog\nb) red fox\nc) cow",
            "Choose. - A: dog - B: red fox - C: cow",
        ] {
            let read = Question::read(text).options;
            let expected =
                [('A', "dog"), ('B', "red fox"), ('C', "cow")].map(|(letter, text)| (letter, text.to_owned()));
            assert_eq!(read, expected, "{text}");
        }
        assert_eq!(Question::read("Which?\n1. dog\n2. cat").numbered.len(), 2);
        assert!(Question::read("Who is J. Smith, and what is Vitamin C?").options.is_empty());
    }

    #[test]
    fn a_question_says_how_digits_are_read() {
        for (text, digits) in [
            ("What date is printed?", DigitForm::Parts),
            ("Which room?", DigitForm::Code),
            ("What is the ratio of time spent?", DigitForm::Mathematics),
            ("How many hours does she sleep?", DigitForm::Open),
            ("What is written on the door?", DigitForm::Text),
            ("How many words are printed?", DigitForm::Open),
            ("What colour is the bus?", DigitForm::Open),
        ] {
            assert_eq!(Question::read(text).digits, digits, "{text}");
        }
        assert!(Question::read("List the digits from left to right.").asks_order);
    }
}
