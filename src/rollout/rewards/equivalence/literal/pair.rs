//! Pairs of numbers, or a few more, with a sign between them: ranges, ratios, sizes, scores.

use super::super::number::Number;
use super::super::question::{DigitForm, Question};
use super::super::unit::{Unit, currency_prefix};
use super::kinds::{Literal, Part, Sign};
use super::token::{Token, without_spaces};

/// Two or more numbers with one sign between them, each with its unit perhaps.
pub(super) fn pair(lower: &str, tokens: &[Token<'_>], are_latex: bool, question: &Question) -> Option<Literal> {
    let text = ["between ", "from "].iter().find_map(|word| lower.strip_prefix(word)).unwrap_or(lower);
    let is_between = lower.starts_with("between ");
    let text = if is_between { text.replacen(" and ", " to ", 1) } else { text.to_owned() };
    let is_mathematics = are_latex || question.digits == DigitForm::Mathematics;
    let splits: [(Sign, &[&str]); 4] = [
        (Sign::Range, &[" to ", "–", "~", "-"]),
        (Sign::Size, &["×", " x ", " by ", "x", "*"]),
        (Sign::Ratio, &[":"]),
        (Sign::Slash, &["/"]),
    ];
    for (sign, separators) in splits {
        for separator in separators {
            let parts: Vec<&str> = text.split(separator).collect();
            if !(2..=6).contains(&parts.len()) {
                continue;
            }
            let Some(mut parts) = parts.into_iter().map(part).collect::<Option<Vec<_>>>() else { continue };
            let is_season = sign == Sign::Slash && is_season(tokens);
            let is_said = match (sign, *separator) {
                (Sign::Range, " to " | "–" | "~") | (Sign::Size, " x " | " by " | "x") | (Sign::Ratio, _) => true,
                (Sign::Range, _) | (Sign::Size, "×") => !is_mathematics,
                (Sign::Size, _) => question.digits == DigitForm::Parts,
                // A season, or a fraction where parts are asked for.
                (Sign::Slash, _) => question.digits == DigitForm::Parts || is_season,
            };
            if matches!(sign, Sign::Range) || is_season {
                complete_years(&mut parts);
            }
            return is_said.then_some(Literal::Parts(if is_season { Sign::Range } else { sign }, parts));
        }
    }
    None
}

/// `1990-95` as `1990-1995`.
fn complete_years(parts: &mut [Part]) {
    if let [first, second] = parts
        && (1000.0..3000.0).contains(&first.number.value())
        && second.number.value() < 100.0
        && second.number.is_integer()
        && first.number.is_integer()
    {
        let century = (first.number.value() / 100.0).floor() as i64 * 100;
        second.number = second.number.plus(Number::integer(century));
    }
}

/// Whether a text is two years, the second perhaps by its last digits: `2019/20`.
fn is_season(tokens: &[Token<'_>]) -> bool {
    matches!(without_spaces(tokens).as_slice(), [Token::Digits(a), Token::Sign('/'), Token::Digits(b)]
        if a.len() == 4 && (b.len() == 2 || b.len() == 4))
}

/// A plain number without a sign, and the unit before or after it.
fn part(text: &str) -> Option<Part> {
    let text = text.trim();
    let (currency, text) = currency_prefix(text).map_or((None, text), |(currency, rest)| (Some(currency), rest));
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(text.len());
    let number = Number::decimal(&text[..end].replace(',', ""))?;
    let unit = Unit::read(&text[end..], !text[end..].starts_with(' '), number.value())?;
    Some(Part { number, unit: currency.unwrap_or(unit) })
}
