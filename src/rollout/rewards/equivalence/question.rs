//! What a question says about the form of its answer: its options, whether an order is asked for, and whether digits with signs between
//! them are a date, a time, a score and so on, or mathematics.

use super::text::canonical;

/// How digits with signs between them are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// The question asks for a result, a fraction, a ratio: they are computed.
    Mathematics,
    /// The question asks for a date, time, score, size or range: they are compared part by part.
    Parts,
    /// The question asks for a code, a phone number, a version: they are compared character by character.
    Code,
    /// The question does not say: their own form decides.
    Open,
}

/// What a question says.
#[derive(Clone, Debug)]
pub struct Question {
    /// The listed options in order: letter and text.
    pub options: Vec<(char, String)>,
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
const CODES: [&str; 31] = [
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
const CODE_PHRASES: [&str; 8] = [
    "license plate",
    "licence plate",
    "number plate",
    "plate number",
    "account number",
    "pin number",
    "license number",
    "licence number",
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
        let text = canonical(question);
        let lower = text.to_lowercase();
        let asked: Vec<&str> = lower
            .split(|c: char| !c.is_alphanumeric() && c != '\'')
            .map(|word| word.trim_matches('\''))
            .filter(|word| !word.is_empty())
            .collect();
        let spaced = format!(" {} ", asked.join(" "));
        let says = |phrase: &&str| spaced.contains(&format!(" {phrase} "));
        let mut reading = Reading::Open;
        if PARTS.iter().any(says) {
            reading = Reading::Parts;
        }
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
        Self { options: options(&text), asks_order, asks_score, reading }
    }

    /// The text of an option.
    pub fn option(&self, letter: char) -> Option<&str> {
        self.options.iter().find(|(listed, _)| *listed == letter).map(|(_, text)| text.as_str())
    }
}

/// The options that a text lists from A on, a line each or in a row: `A. cat`, `(B) dog`, `[C] cow`, `D: fox`. Empty for fewer than two.
fn options(text: &str) -> Vec<(char, String)> {
    let styles: [(&str, &str); 9] =
        [("(", ")"), ("[", "]"), ("", ")"), ("", "."), ("", ":"), ("", ","), ("", " -"), ("", " –"), ("<", ">")];
    let listed = styles.iter().map(|(open, close)| listed(text, open, close));
    let best = listed.rev().max_by_key(Vec::len).unwrap_or_default();
    if best.len() < 2 { Vec::new() } else { best }
}

/// The options whose letters stand between `open` and `close`, from A on without a gap.
fn listed(text: &str, open: &str, close: &str) -> Vec<(char, String)> {
    let mut marks: Vec<(char, usize, usize)> = Vec::new();
    let mut from = 0;
    for letter in 'A'..='Z' {
        let mark = format!("{open}{letter}{close}");
        let begins = |at: usize| {
            let before = text[..at].chars().next_back();
            before.is_none_or(|c| c.is_whitespace() || ",;:?".contains(c))
        };
        let Some(at) = text[from..].match_indices(&mark).map(|(at, _)| from + at).find(|&at| begins(at)) else { break };
        marks.push((letter, at, at + mark.len()));
        from = at + mark.len();
    }
    let ends = marks.iter().skip(1).map(|(_, at, _)| *at).chain([text.len()]);
    let option = |(&(letter, _, start), end): (&(char, usize, usize), usize)| {
        // The last option of a row may be followed by other lines.
        let line = text[start..end].trim_start_matches(['.', ':', ')', ' ']).split('\n').next().unwrap_or_default();
        (letter, line.trim().trim_end_matches([',', ';']).trim_end().to_owned())
    };
    marks.iter().zip(ends).map(option).collect()
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
        ] {
            let read = Question::read(text).options;
            let expected =
                [('A', "dog"), ('B', "red fox"), ('C', "cow")].map(|(letter, text)| (letter, text.to_owned()));
            assert_eq!(read, expected, "{text}");
        }
        assert!(Question::read("Who is J. Smith, and what is Vitamin C?").options.is_empty());
    }

    #[test]
    fn a_question_says_how_digits_are_read() {
        for (text, reading) in [
            ("What date is printed?", Reading::Parts),
            ("Which room?", Reading::Code),
            ("What is the ratio of time spent?", Reading::Mathematics),
            ("How many hours does she sleep?", Reading::Open),
            ("What digit is on the blue plate?", Reading::Open),
        ] {
            assert_eq!(Question::read(text).reading, reading, "{text}");
        }
        assert!(Question::read("List the digits from left to right.").asks_order);
    }
}
