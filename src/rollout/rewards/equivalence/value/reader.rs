//! Reads a value: what stands in brackets or a list, a quantity, a formula.

use super::super::expression::{Expression, is_algebra};
use super::super::unit::Unit;
use super::kinds::{Brackets, Value};
use super::list::{Separators, split_list};
use super::quantity::{compound, infinity, quantity};

/// Deepest nesting of collections.
const DEPTH_MAX: usize = 8;

/// A bracketed collection, a quantity or a formula.
pub(super) fn read(text: &str, depth: usize) -> Option<Value> {
    let text = &text.trim().trim_end_matches('.').replace(" x 10^", "×10^").replace("x10^", "×10^");
    let text = mixed(text).unwrap_or_else(|| text.to_owned());
    // A dash in front of a number is its sign.
    let text = text.strip_prefix('–').map_or(text.to_owned(), |rest| format!("-{rest}"));
    let text = text.trim_end();
    if depth > DEPTH_MAX || text.is_empty() {
        return None;
    }
    if let Some((before, after)) = text.split_once('±') {
        let sides = ["+", "-"].map(|sign| read(&format!("{before}{sign}{after}"), depth + 1));
        let [Some(plus), Some(minus)] = sides else { return None };
        return Some(Value::Collection(Brackets::Bare, vec![plus, minus]));
    }
    let separators = if depth == 0 { Separators::Words } else { Separators::Signs };
    let parts = split_list(text, separators);
    if parts.len() > 1 {
        let values = parts.into_iter().map(|part| read(part, depth + 1)).collect::<Option<_>>()?;
        return Some(Value::Collection(Brackets::Bare, values));
    }
    if let Some((brackets, inner)) = bracketed(text) {
        let parts = split_list(inner, Separators::InBrackets);
        if parts.len() > 1 || brackets == Brackets::Set || (brackets == Brackets::Ordered('[', ']')) {
            let values = parts.into_iter().map(|part| read(part, depth + 1)).collect::<Option<_>>()?;
            return Some(Value::Collection(brackets, values));
        }
    }
    if let Some(value) = infinity(text) {
        return Some(Value::Quantity(value, Unit::None));
    }
    quantity(text).or_else(|| compound(text, 1)).or_else(|| formula(text)).or_else(|| {
        let value = Expression::read(text)?.value()?;
        Some(Value::Quantity(value, Unit::None))
    })
}

/// `1 and 1/2` as `1 1/2`.
pub(super) fn mixed(text: &str) -> Option<String> {
    let (whole, part) = text.split_once(" and ")?;
    let (above, below) = part.split_once('/')?;
    let are_digits =
        [whole, above, below].iter().all(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    are_digits.then(|| format!("{whole} {part}"))
}

fn formula(text: &str) -> Option<Value> {
    let joined: String = text.chars().filter(|c| *c != ' ').collect();
    let expression = Expression::read(text).filter(|_| is_algebra(&joined))?;
    match expression.variables().as_slice() {
        [] => None,
        // Euler's number where it is the only letter.
        ['e'] => expression.value_of_e().map(|value| Value::Quantity(value, Unit::None)),
        _ => Some(Value::Formula(expression)),
    }
}

/// The brackets around the whole of `text`, and what they hold. A brace written plainly counts as a set.
fn bracketed(text: &str) -> Option<(Brackets, &str)> {
    let open = text.chars().next()?;
    let close = text.chars().next_back()?;
    let brackets = match (open, close) {
        ('⦃', '⦄') | ('{', '}') => Brackets::Set,
        ('(' | '[', ')' | ']') => Brackets::Ordered(open, close),
        _ => return None,
    };
    let inner = text.get(open.len_utf8()..text.len() - close.len_utf8())?;
    let mut depth = 0i32;
    for character in inner.chars() {
        match character {
            '(' | '[' | '{' | '⦃' => depth += 1,
            ')' | ']' | '}' | '⦄' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    Some((brackets, inner))
}
