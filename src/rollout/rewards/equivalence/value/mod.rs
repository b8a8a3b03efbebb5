//! Values: a number with its unit, a formula, or several values in a list, a tuple, a set, an interval.

mod interval;
mod kinds;
mod list;
mod quantity;
mod reader;

use super::expression::Expression;
use super::question::Question;
use super::unit::Unit;
use super::verdict::Verdict;
use interval::intervals;
use kinds::{Brackets, Value};
pub use list::{Separators, split_list};
use quantity::{compound, named_number};
use reader::{mixed, read};

/// Longest text that is read, in bytes.
const FORMULA_BYTES_MAX: usize = 512;
/// Nouns of which anything may be an instance.
const GENERAL: [&str; 7] = ["object", "item", "thing", "unit", "piece", "time", "one"];

/// A value and the variables that it is given to, in order.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// `x` of `x = 3`; `x`, `y` of `x = 3, y = 4`; none where only a value is said.
    pub names: Vec<String>,
    /// What they are given, or what is said.
    pub value: Value,
}

impl Assigned {
    /// Needs a text (canonical, without LaTeX's markup).
    pub fn read(text: &str) -> Option<Self> {
        if text.len() > FORMULA_BYTES_MAX {
            return None;
        }
        let mixed = mixed(text);
        let text = mixed.as_deref().unwrap_or(text);
        if let Some(value) = named_number(text).or_else(|| compound(text, 2)) {
            return Some(Self { names: Vec::new(), value });
        }
        if let Some(value) = intervals(text) {
            return Some(Self { names: Vec::new(), value });
        }
        let either: Vec<&str> = text.split(" or ").collect();
        let is_either = either.len() > 1 && either.iter().all(|part| assignment(part).is_some());
        let parts = if is_either { either } else { split_list(text, Separators::Words) };
        let assignments: Option<Vec<(&str, &str)>> = parts.iter().map(|part| assignment(part)).collect();
        match assignments.filter(|_| parts.len() > 1) {
            Some(mut assignments) => {
                assignments.sort_by_key(|(name, _)| *name);
                let names: Vec<String> = assignments.iter().map(|(name, _)| (*name).to_owned()).collect();
                let values = assignments.iter().map(|(_, value)| read(value, 0)).collect::<Option<_>>()?;
                let is_one = names.iter().all(|name| *name == names[0]);
                let names = if is_one { names[..1].to_vec() } else { names };
                Some(Self { names, value: Value::Collection(Brackets::Bare, values) })
            }
            None => {
                let (name, text) =
                    assignment(text).map_or((None, text), |(name, value)| (Some(name.to_owned()), value));
                Some(Self { names: name.into_iter().collect(), value: equation(text).or_else(|| read(text, 0))? })
            }
        }
    }

    /// Compares two numbers of which only one has a unit, where the question asks for a unit, a thing or a scale: `150 cm` to a question
    /// for meters is `1.5`, `7 months` to one for years is no `7`. `None` where the question says nothing of it.
    pub fn against_asked(&self, other: &Self, question: &Question) -> Option<Verdict> {
        let (Value::Quantity(a, unit), Value::Quantity(b, other)) = (&self.value, &other.value) else { return None };
        let (number, unit, bare) = match (unit, other) {
            (unit, Unit::None) => (a, unit, b),
            (Unit::None, unit) => (b, unit, a),
            _ => return None,
        };
        if let Some(scale) = question.scale
            && (number.same(&bare.times(scale)) || bare.same(&number.times(scale)))
        {
            return Some(Verdict::Same);
        }
        match (unit, &question.unit) {
            (Unit::Measure { .. }, Some(asked)) if !unit.is_like(asked) => {
                Some(Verdict::of(unit.convert(*number, asked).is_some_and(|number| number.same(bare))))
            }
            (Unit::Counted(nouns), _) if question.asks_count && !nouns.iter().any(|noun| question.says(noun)) => {
                let is_general = nouns.last().is_some_and(|noun| GENERAL.contains(&noun.as_str()));
                let is_same = number.same(bare) && !is_general;
                is_same.then(|| Verdict::unknown("the answer counts something that the question does not name"))
            }
            _ => None,
        }
    }

    /// Whether it is an ordinal.
    pub fn is_ordinal(&self) -> bool {
        matches!(self.value, Value::Quantity(_, Unit::Ordinal))
    }

    /// The number, where it is a single one; a percentage both ways.
    pub fn numbers(&self) -> Vec<f64> {
        match &self.value {
            Value::Quantity(number, Unit::Percent) => vec![number.value(), number.value() / 100.0],
            Value::Quantity(number, _) => vec![number.value()],
            _ => Vec::new(),
        }
    }

    /// Whether both are the same; names count where both have some. `None` where no rule can tell.
    pub fn same(&self, other: &Self, is_ordered: bool) -> Option<bool> {
        if !self.names.is_empty() && !other.names.is_empty() && self.names != other.names {
            return Some(false);
        }
        let is_ordered = is_ordered || self.names.len() > 1 || other.names.len() > 1;
        self.value.same(&other.value, is_ordered)
    }
}

/// The name and the value of `x = 3`, `∠B = 70°`, `x ≈ 8.5`: a letter, perhaps with an index, an argument or a noun before it.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(['=', '≈'])?;
    let name = name.trim();
    let bare = name.strip_suffix("(x)").unwrap_or(name);
    let bare = ["angle ", "area ", "length ", "m∠", "∠", "△"]
        .iter()
        .find_map(|noun| bare.strip_prefix(noun))
        .unwrap_or(bare)
        .trim();
    let mut letters = bare.chars();
    let is_name = letters.next().is_some_and(char::is_alphabetic)
        && letters.clone().count() <= 7
        && letters.all(|c| c.is_alphanumeric() || "_{}".contains(c));
    (is_name && !value.trim().is_empty() && !value.contains('=')).then(|| (name, value.trim()))
}

/// An equation between two numbers that holds (`2+2=4`): the number.
fn equation(text: &str) -> Option<Value> {
    let (left, right) = text.split_once('=')?;
    let (left, right) = (Expression::read(left)?.value()?, Expression::read(right)?.value()?);
    left.same(&right).then_some(Value::Quantity(right, Unit::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> Option<bool> {
        Assigned::read(a)?.same(&Assigned::read(b)?, false)
    }

    #[test]
    fn values_are_the_same_in_every_form() {
        for (a, b) in [
            ("1,234", "1234"),
            ("$3.50", "3.5"),
            ("3.5 dollars", "$3.50"),
            ("$1.5M", "1.5 million dollars"),
            ("ten percent", "10%"),
            ("0.5", "50%"),
            ("two thirds", "2/3"),
            ("2 thirds", "2/3"),
            ("5米", "5"),
            ("12 m^2", "12 square meters"),
            ("1<x<2", "(1,2)"),
            ("x>3", "(3,∞)"),
            ("x ∈ [1,2)", "1≤x<2"),
            ("x=3, y=4", "(3,4)"),
            ("y=4, x=3", "x=3, y=4"),
            ("x=1, x=2", "2, 1"),
            ("±2", "2, -2"),
            ("(1,000, 2)", "(1000,2)"),
            ("{1,2}", "{2,1}"),
            ("3 and 4", "4,3"),
            ("2+2=4", "4"),
            ("y = 2x+1", "1+2x"),
            ("30 seconds", "0.5 minutes"),
            ("2 hours 30 minutes", "2h 30min"),
            ("5'10\"", "5 feet 10 inches"),
            ("十二", "12"),
            ("minus 5 degrees Celsius", "-5 °C"),
            ("3x^2y", "3yx^2"),
            ("3rd", "third"),
        ] {
            assert_eq!(same(a, b), Some(true), "{a} {b}");
        }
        for (a, b) in [
            ("(100,200)", "100200"),
            ("(1,2)", "[1,2]"),
            ("(1,2)", "(2,1)"),
            ("1234567890", "1234567891"),
            ("60 mph", "60 km/h"),
            ("7 tenths", "7"),
            ("2 thirds", "2"),
            ("y = 5", "x = 5"),
            ("3.14", "π"),
            ("2 seconds", "second"),
            ("1990s", "1990"),
            ("7th", "7 people"),
        ] {
            assert_eq!(same(a, b), Some(false), "{a} {b}");
        }
        for text in ["7 is wrong", "7=5", "3D printing", "5 or more", "cat", "5 plus 3"] {
            assert!(Assigned::read(text).is_none(), "{text}");
        }
    }
}
