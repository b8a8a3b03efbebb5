//! What a question says about the form of its answer: its options, whether an order is asked for, and whether digits with signs between
//! them are a date, a time, a score and so on, or mathematics.

mod options;
mod phrases;

use super::number::{Number, scale, spoken};
use super::text::canonical;
use super::unit::{Unit, singular};
use options::{STYLES, numbered, options};
use phrases::{
    CODE_PHRASES, CODES, COORDINATES, FREE_ORDERS, MATHEMATICS, OPTIONS, ORDERS, ORDERS_CHINESE, PARTS, TEXTS,
};

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

#[cfg(test)]
mod tests {
    use super::*;

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
