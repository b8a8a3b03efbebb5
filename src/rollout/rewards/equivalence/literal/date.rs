//! Dates: in digits, with the name of the month, in Chinese.

use super::kinds::Literal;
use super::token::{Token, integer, without_spaces};

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// A month by its name or the beginning of it.
fn month(word: &str) -> Option<u32> {
    let is = |name: &&str| *name == word || (word.len() >= 3 && word.len() <= 4 && name.starts_with(word));
    MONTHS.iter().position(is).map(|at| at as u32 + 1)
}

/// A day of the week by its name or the beginning of it, from 0.
pub fn weekday(word: &str) -> Option<usize> {
    WEEKDAYS.iter().position(|day| word.len() >= 3 && day.starts_with(word))
}

/// A date in any of these forms.
pub(super) fn date(lower: &str, tokens: &[Token<'_>]) -> Option<Literal> {
    use Token::{Digits, Sign, Word};
    let is_in = |value: u32, last: u32| (1..=last).contains(&value);
    let joined = without_spaces(tokens);
    if let [Digits(a), Sign(x), Digits(b), Sign(y), Digits(c)] = joined.as_slice()
        && x == y
        && matches!(x, '-' | '–' | '/' | '.')
    {
        let (first, second, third) = (integer(a, 4)?, integer(b, 2)?, integer(c, 4)?);
        if a.len() == 4 && is_in(second, 12) && is_in(third, 31) && c.len() <= 2 {
            return Some(Literal::Date { year: Some(first), month: second, day: Some(third) });
        }
        let is_date = a.len() <= 2 && matches!(c.len(), 2 | 4) && is_in(first, 31) && is_in(second, 31);
        return (is_date && (first <= 12 || second <= 12)).then(|| Literal::NumericDate(vec![first, second, third]));
    }
    let (year, rest) = match joined.as_slice() {
        [Digits(year), Word("年"), rest @ ..] => (Some(integer(year, 4)?), rest),
        rest => (None, rest),
    };
    match rest {
        [Digits(month), Word("月")] => {
            return Some(Literal::Date { year, month: integer(month, 2)?, day: None });
        }
        [Digits(month), Word("月"), Digits(day), Word("日" | "号")] => {
            return Some(Literal::Date { year, month: integer(month, 2)?, day: Some(integer(day, 2)?) });
        }
        _ => {}
    }
    // With the month's name: `Monday, January 5th, 2023`, `5 Jan 2023`, `May 2019`.
    let pieces: Vec<&str> = lower
        .split([' ', ',', '.', '-', '/'])
        .filter(|piece| !piece.is_empty() && !matches!(*piece, "of" | "the"))
        .collect();
    let pieces = if pieces.first().is_some_and(|first| weekday(first).is_some()) { &pieces[1..] } else { &pieces[..] };
    let number = |piece: &str| -> Option<u32> {
        let digits = ["st", "nd", "rd", "th"].iter().find_map(|ending| piece.strip_suffix(ending)).unwrap_or(piece);
        integer(digits, 4).filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let at = pieces.iter().position(|piece| month(piece).is_some())?;
    let month = month(pieces[at])?;
    let others: Option<Vec<u32>> =
        pieces.iter().enumerate().filter(|(place, _)| *place != at).map(|(_, piece)| number(piece)).collect();
    match others?.as_slice() {
        [day] if is_in(*day, 31) => Some(Literal::Date { year: None, month, day: Some(*day) }),
        [year] if *year >= 1000 => Some(Literal::Date { year: Some(*year), month, day: None }),
        [day, year] if is_in(*day, 31) && *year >= 1000 => {
            Some(Literal::Date { year: Some(*year), month, day: Some(*day) })
        }
        [year, day] if is_in(*day, 31) && *year >= 1000 => {
            Some(Literal::Date { year: Some(*year), month, day: Some(*day) })
        }
        _ => None,
    }
}
