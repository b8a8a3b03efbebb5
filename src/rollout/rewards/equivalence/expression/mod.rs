//! Expressions in plain text or LaTeX: numbers, fractions, roots, powers, common functions and single-letter variables. Two expressions
//! are the same if they have the same value, with variables at several points. What cannot be read is left alone: a wrong reading would
//! be worse than none.

mod digits;
mod reader;
mod tree;

pub(super) use digits::number_length;
pub(super) use reader::is_algebra;
pub(super) use tree::Expression;
