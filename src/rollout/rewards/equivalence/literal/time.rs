//! Times of day: `16:30`, `4:30 pm`, `half past 4`.

use super::super::number::spoken;
use super::super::question::{DigitForm, Question};
use super::kinds::Literal;
use super::token::{Token, integer, without_spaces};

/// The words of a time with digits for the names of numbers: `half past 4`, `12:00 pm` for noon.
pub(super) fn with_digits(text: &str) -> String {
    match text {
        "noon" | "midday" => return "12:00 pm".to_owned(),
        "midnight" => return "12:00 am".to_owned(),
        _ if !(text.contains("o'clock") || text.contains(" past ") || text.contains(" to ")) => return text.to_owned(),
        _ => {}
    }
    let digits = |word: &str| match spoken(&[word]) {
        Some((number, 1)) if number.is_integer() && word != "half" => number.value().to_string(),
        _ => word.to_owned(),
    };
    text.split(' ').map(digits).collect::<Vec<_>>().join(" ")
}

/// A time of day; two numbers with a colon are none where the question asks for a result or a score.
pub(super) fn time(tokens: &[Token<'_>], question: &Question) -> Option<Literal> {
    use Token::{Digits, Sign, Word};
    let joined = without_spaces(tokens);
    // `p.m.` is `pm`.
    let joined: Vec<Token<'_>> = match joined.as_slice() {
        [rest @ .., Word("p"), Sign('.'), Word("m")] => [rest, &[Word("pm")]].concat(),
        [rest @ .., Word("a"), Sign('.'), Word("m")] => [rest, &[Word("am")]].concat(),
        rest => rest.to_vec(),
    };
    let (joined, is_afternoon) = match joined.as_slice() {
        [rest @ .., Word("pm")] => (rest.to_vec(), Some(true)),
        [rest @ .., Word("am")] => (rest.to_vec(), Some(false)),
        rest => (rest.to_vec(), None),
    };
    let hour = |digits: &str| integer(digits, 2).filter(|hour| *hour <= 24);
    let minute = |digits: &str| integer(digits, 2).filter(|minute| digits.len() == 2 && *minute < 60);
    let parts = match joined.as_slice() {
        [Digits(h), Sign(':'), Digits(m), Sign(':'), Digits(s)] => [hour(h)?, minute(m)?, minute(s)?],
        [Digits(h), Sign(':'), Digits(m)] if question.digits != DigitForm::Mathematics && !question.asks_score => {
            [hour(h)?, minute(m)?, 0]
        }
        [Digits(h), Sign('.'), Digits(m)] if is_afternoon.is_some() => [hour(h)?, minute(m)?, 0],
        [Digits(h)] if is_afternoon.is_some() => [hour(h)?, 0, 0],
        [Digits(h), Word("o"), Sign('\''), Word("clock")] => [hour(h)?, 0, 0],
        [Word("half"), Word("past"), Digits(h)] => [hour(h)?, 30, 0],
        [Word("quarter"), Word("past"), Digits(h)] => [hour(h)?, 15, 0],
        [Word("quarter"), Word("to"), Digits(h)] => [hour(h)?.checked_sub(1)?, 45, 0],
        _ => return None,
    };
    Some(Literal::Time { parts, is_afternoon })
}
