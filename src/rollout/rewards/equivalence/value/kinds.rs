//! What a value may be, and whether two are the same.

use super::super::expression::Expression;
use super::super::number::Number;
use super::super::unit::Unit;

/// What a text says: a number, a formula, or several of them.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number and what it counts.
    Quantity(Number, Unit),
    /// An expression with variables.
    Formula(Expression),
    /// Several values, and what stands around them.
    Collection(Brackets, Vec<Value>),
}

/// What stands around several values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Brackets {
    /// Nothing: `1, 2`.
    Bare,
    /// Braces: a set.
    Set,
    /// Round or square ones, open and close: a tuple, a list, an interval.
    Ordered(char, char),
    /// Intervals of which one holds.
    Union,
}

impl Value {
    /// Whether it is a plain number, with or without a unit.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Quantity(..))
    }

    /// Whether both are the same. `None` where no rule can tell.
    pub(super) fn same(&self, other: &Self, is_ordered: bool) -> Option<bool> {
        match (self, other) {
            (Self::Quantity(a, unit), Self::Quantity(b, other)) => Some(unit.same(*a, other, *b)),
            (Self::Formula(a), Self::Formula(b)) => a.same(b),
            (Self::Collection(a, x), Self::Collection(b, y)) => {
                use Brackets::{Bare, Ordered, Set, Union};
                let in_order = match (a, b) {
                    (Union, Union) => false,
                    (Union, _) | (_, Union) => return Some(false),
                    (Bare, Bare) => is_ordered,
                    (Set | Bare, Set | Bare) => false,
                    (Bare, Ordered(..)) | (Ordered(..), Bare) => true,
                    (Ordered(..), Ordered(..)) if a == b => true,
                    _ => return Some(false),
                };
                if x.len() != y.len() {
                    return Some(false);
                }
                if in_order { same_in_order(x, y) } else { Some(same_in_any_order(x, y)) }
            }
            _ => Some(false),
        }
    }
}

fn same_in_order(a: &[Value], b: &[Value]) -> Option<bool> {
    let each: Vec<Option<bool>> = a.iter().zip(b).map(|(a, b)| a.same(b, true)).collect();
    match each.contains(&Some(false)) {
        true => Some(false),
        false => each.into_iter().collect::<Option<Vec<_>>>().map(|_| true),
    }
}

fn same_in_any_order(a: &[Value], b: &[Value]) -> bool {
    let mut rest: Vec<&Value> = b.iter().collect();
    a.iter().all(|value| {
        let found = rest.iter().position(|other| value.same(other, true) == Some(true));
        found.map(|at| rest.swap_remove(at)).is_some()
    })
}
