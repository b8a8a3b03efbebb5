//! What a question says about the form of its answer: its options, whether an order is asked for, and whether digits with signs between
//! them are a date, a time, a score and so on, or mathematics.

use std::ops::RangeInclusive;

use super::text::{canonical, without_latex};

/// Longest question that is read, in bytes.
const TEXT_BYTES_MAX: usize = 32 << 10;

/// How digits with signs between them are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
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
    /// Whether the order of a list counts.
    pub asks_order: bool,
    /// Whether a score or result of a game is asked for.
    pub asks_score: bool,
    /// How digits with signs between them are read.
    pub reading: Reading,
}

const MATHEMATICS: [&str; 26] = [
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
];
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
const CODE_PHRASES: [&str; 12] = [
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
const PARTS: [&str; 53] = [
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
];
const ORDERS: [&str; 27] = [
    "in order",
    "order",
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
];
const ORDERS_ELSEWHERE: [&str; 4] = ["顺序", "依次", "从左到右", "从上到下"];

impl Question {
    /// Reads a question.
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
        let mut reading = Reading::Open;
        if TEXTS.iter().any(says) {
            reading = Reading::Text;
        }
        if PARTS.iter().any(says) {
            reading = Reading::Parts;
        }
        let asks_count = ["how many", "how much", "number of", "count"].iter().any(says);
        if ["how many", "how much"].iter().any(says) {
            reading = Reading::Open;
        }
        if MATHEMATICS.iter().any(says) {
            reading = Reading::Mathematics;
        }
        if CODES.iter().chain(&CODE_PHRASES).any(says) && reading != Reading::Mathematics {
            reading = Reading::Code;
        }
        let asks_order = ORDERS.iter().any(says) || ORDERS_ELSEWHERE.iter().any(|words| lower.contains(words));
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
            asks_order,
            asks_score,
            reading,
        }
    }

    /// The text of an option.
    pub fn option(&self, letter: char) -> Option<&str> {
        self.options.iter().find(|(listed, _)| *listed == letter).map(|(_, text)| text.as_str())
    }
}

/// The text as far as it is read.
fn beginning(text: &str) -> &str {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// What stands before and behind the letters of listed options.
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
    marks.iter().zip(ends).map(option).collect()
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
        for (text, reading) in [
            ("What date is printed?", Reading::Parts),
            ("Which room?", Reading::Code),
            ("What is the ratio of time spent?", Reading::Mathematics),
            ("How many hours does she sleep?", Reading::Open),
            ("What is written on the door?", Reading::Text),
            ("How many words are printed?", Reading::Open),
            ("What colour is the bus?", Reading::Open),
        ] {
            assert_eq!(Question::read(text).reading, reading, "{text}");
        }
        assert!(Question::read("List the digits from left to right.").asks_order);
    }
}
