//! Intervals: as inequalities in one variable, as sets, and unions of such.

use super::super::expression::Expression;
use super::super::number::Number;
use super::super::unit::Unit;
use super::kinds::{Brackets, Value};
use super::quantity::infinity;
use super::reader::read;

/// An inequality in one variable as its interval (`1 < x ≤ 2` is `(1, 2]`), an interval after `x ∈`, or a union of such.
pub(super) fn intervals(text: &str) -> Option<Value> {
    let text = text.replace("<=", "≤").replace(">=", "≥").replace(" or ", "∪").replace(" and ", "∩");
    let has_sign = text.contains(['<', '>', '≤', '≥', '∈', '∪']);
    if !has_sign || text.contains('∩') {
        return None;
    }
    let parts: Vec<&str> = text.split('∪').map(str::trim).collect();
    let mut read_parts = parts.into_iter().map(interval).collect::<Option<Vec<_>>>()?;
    match read_parts.len() {
        1 => read_parts.pop(),
        _ => Some(Value::Collection(Brackets::Union, read_parts)),
    }
}

fn interval(text: &str) -> Option<Value> {
    if let Some((_, set)) = text.split_once('∈') {
        return read(set, 0);
    }
    let signs: Vec<(usize, char)> = text.char_indices().filter(|(_, c)| "<>≤≥".contains(*c)).collect();
    let side = |from: usize, to: usize| text[from..to].trim();
    let is_variable = |side: &str| side.chars().count() == 1 && side.chars().all(char::is_alphabetic);
    let bound = |side: &str| infinity(side).or_else(|| Expression::read(side)?.value());
    let endless = |sign: f64| Number::real(sign * f64::INFINITY);
    let is_less = |sign: char| "<≤".contains(sign);
    // The lower bound with whether it belongs to the interval, and the upper one.
    let (low, high) = match signs.as_slice() {
        [] => return read(text, 0),
        [(at, sign)] => {
            let (left, right) = (side(0, *at), side(at + sign.len_utf8(), text.len()));
            let is_closed = "≤≥".contains(*sign);
            let (value, is_above) = match (is_variable(left), is_variable(right)) {
                (true, false) => (bound(right)?, !is_less(*sign)),
                (false, true) => (bound(left)?, is_less(*sign)),
                _ => return None,
            };
            if is_above {
                ((value, is_closed), (endless(1.0), false))
            } else {
                ((endless(-1.0), false), (value, is_closed))
            }
        }
        [(first, a), (second, b)] if is_less(*a) == is_less(*b) => {
            let (left, right) = (side(0, *first), side(second + b.len_utf8(), text.len()));
            is_variable(side(first + a.len_utf8(), *second)).then_some(())?;
            let (left, right) = ((bound(left)?, "≤≥".contains(*a)), (bound(right)?, "≤≥".contains(*b)));
            if is_less(*a) { (left, right) } else { (right, left) }
        }
        _ => return None,
    };
    let brackets = Brackets::Ordered(if low.1 { '[' } else { '(' }, if high.1 { ']' } else { ')' });
    let values = [low.0, high.0].map(|number| Value::Quantity(number, Unit::None));
    Some(Value::Collection(brackets, values.to_vec()))
}
