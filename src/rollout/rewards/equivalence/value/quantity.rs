//! Numbers with their units: in digits or words, in one unit or several, with a currency or a scale.

use super::super::expression::{Expression, number_length};
use super::super::number::{Number, ideographic, is_ordinal, ordinal_digits, scale, spoken, unit_fraction};
use super::super::unit::{Unit, currency_prefix};
use super::kinds::Value;

/// Words before a number that leave it as it is.
const ABOUT: [&str; 16] = [
    "the ",
    "approximately ",
    "approx. ",
    "approx ",
    "about ",
    "around ",
    "roughly ",
    "exactly ",
    "nearly exactly ",
    "a total of ",
    "only ",
    "just ",
    "≈",
    "~",
    "=",
    ":",
];
/// Letters after a number that multiply it.
const SUFFIXES: [(&str, i64); 8] = [
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("mm", 1_000_000),
    ("B", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("万", 10_000),
    ("亿", 100_000_000),
];

/// A number with its unit: `5 cm`, `€5`, `$1.5M`, `ten percent`, `about 50`, `two thirds`, `3rd`.
pub(super) fn quantity(text: &str) -> Option<Value> {
    let mut text = text.trim();
    while let Some(rest) = ABOUT.iter().find_map(|words| strip_prefix(text, words)) {
        text = rest.trim_start();
    }
    let is_number = |text: &&str| text.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let spoken_sign = ["minus ", "negative "].iter().find_map(|sign| strip_prefix(text, sign)).filter(is_number);
    let signed = spoken_sign.map(|rest| format!("-{}", rest.trim_start()));
    let text = signed.as_deref().unwrap_or(text);
    let (is_negative, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest.trim_start()),
        None => (false, text),
    };
    if let Some((currency, rest)) = currency_prefix(unsigned) {
        let Value::Quantity(number, unit) = measured(rest, true)? else { return None };
        let is_same_money = matches!((&unit, &currency), (Unit::None, _)) || {
            let one = Number::integer(1);
            unit.same(one, &currency, one)
        };
        let number = if is_negative { number.negative() } else { number };
        return is_same_money.then_some(Value::Quantity(number, currency));
    }
    measured(text, false)
}

/// A quantity in at least so many units of one kind: `2 hours 30 minutes`, `5 ft 10 in`, `5'10"`.
pub(super) fn compound(text: &str, least: usize) -> Option<Value> {
    let spaced = text.replace('\'', " ft ").replace('"', " in ").replace(" and ", " ").replace(',', " ");
    let mut total: Option<(Number, Unit)> = None;
    let mut rest = spaced.trim();
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = number_length(rest);
        let number = Number::decimal(&rest[..digits])?;
        let after = rest[digits..].trim_start();
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit = Unit::read(after[..end].trim(), true, number.value())
            .filter(|unit| matches!(unit, Unit::Measure { .. }))?;
        total = Some(match total {
            None => (number, unit),
            Some((sum, first)) => (sum.plus(unit.convert(number, &first)?), first),
        });
        rest = after[end..].trim_start();
        parts += 1;
    }
    total.filter(|_| parts >= least).map(|(number, unit)| Value::Quantity(number, unit))
}

/// The number whose name the whole text is: the `and` of `one hundred and five` makes no list.
pub(super) fn named_number(text: &str) -> Option<Value> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    let (number, _) = spoken(&words).filter(|(_, used)| *used == words.len())?;
    let unit = if words.iter().any(|word| is_ordinal(word)) { Unit::Ordinal } else { Unit::None };
    Some(Value::Quantity(number, unit))
}

/// Plus or minus infinity, as a bound of an interval.
pub(super) fn infinity(text: &str) -> Option<Number> {
    let (sign, name) = match text.strip_prefix('-') {
        Some(name) => (-1.0, name),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    ["∞", "infinity", "inf", "oo"].contains(&name.trim()).then(|| Number::real(sign * f64::INFINITY))
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..]).filter(|rest| !rest.trim().is_empty())
}

/// A number in digits or words, and what follows it.
fn measured(text: &str, is_money: bool) -> Option<Value> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    if let Some((number, used)) = spoken(&words) {
        let unit = Unit::read(&words[used..].join(" "), false, number.value())?;
        let unit = match unit {
            Unit::None if words[..used].iter().any(|word| is_ordinal(word)) => Unit::Ordinal,
            unit => unit,
        };
        return Some(Value::Quantity(number, unit));
    }
    if let Some((number, length)) = ideographic(text) {
        return Some(Value::Quantity(number, Unit::read(&text[length..], true, number.value())?));
    }
    if let Some(number) = words.first().and_then(|word| ordinal_digits(word)) {
        return (words.len() == 1).then_some(Value::Quantity(number, Unit::Ordinal));
    }
    // The exponent of a unit is no digit of a number.
    let text = unit_exponents(text);
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || matches!(c, '}' | ')' | ']' | '|' | 'π'))
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    let (number, mut rest) = number_before(&text, end)?;
    let mut number = number;
    let is_attached = !rest.starts_with(' ');
    rest = rest.trim_start();
    let first: String = rest.chars().take_while(|c| c.is_alphabetic()).collect();
    let letters = SUFFIXES.iter().find(|(suffix, _)| {
        let is_letter = suffix.is_ascii();
        if is_letter {
            (is_attached || is_money) && first == *suffix && (*suffix != "mm" || is_money)
        } else {
            first.starts_with(suffix)
        }
    });
    let million = (is_money && first == "m").then_some(("m", 1_000_000));
    if let Some((suffix, factor)) = letters.copied().or(million) {
        number = number.times(Number::integer(factor));
        rest = &rest[suffix.len()..];
    } else if let Some(factor) = scale(&first.to_lowercase()) {
        number = number.times(factor);
        rest = &rest[first.len()..];
    } else if let Some(fraction) = unit_fraction(&first.to_lowercase()).filter(|_| !is_attached && first != "second") {
        // `2 thirds`, but not `30 seconds`.
        number = number.times(fraction);
        rest = &rest[first.len()..];
    }
    let unit = Unit::read(rest, is_attached, number.value())?;
    Some(Value::Quantity(number, unit))
}

/// The number that `text` begins with, as far as `end` or a shorter place before a word, and the rest.
fn number_before(text: &str, end: usize) -> Option<(Number, &str)> {
    let value = |end: usize| Some((Expression::read(&text[..end])?.value()?, &text[end..]));
    let degrees = text[end..].trim_start().strip_prefix('°').filter(|rest| rest.is_empty());
    if let Some(rest) = degrees {
        // The angle of a function is part of the number; `30°` is a number and its unit.
        let has_function = text.contains(char::is_alphabetic);
        let (number, _) = value(if has_function { text.len() } else { end })?;
        return Some((number, if has_function { rest } else { &text[end..] }));
    }
    value(end).or_else(|| {
        // `5 cm by car 2` has digits after its number.
        let used = number_length(text);
        (used > 0).then(|| value(used)).flatten()
    })
}

/// `cm^2` as `cm²`, so that a unit has no digits.
fn unit_exponents(text: &str) -> String {
    let mut written = text.replace("^{2}", "^2").replace("^{3}", "^3");
    // Beside an operator it is a formula's exponent.
    if written.contains(['+', '=', '(', '\\']) {
        return written;
    }
    for (from, to) in [("^2", "²"), ("^3", "³")] {
        let pieces: Vec<&str> = written.split(from).collect();
        let mut joined = pieces[0].to_owned();
        for piece in &pieces[1..] {
            joined.push_str(if joined.ends_with(char::is_alphabetic) { to } else { from });
            joined.push_str(piece);
        }
        written = joined;
    }
    written
}
