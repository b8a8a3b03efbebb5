//! Text in one form: one code for each sign, LaTeX taken off, and the words of a text as they are compared.

mod canonical;
mod latex;
mod words;

pub(super) use canonical::canonical;
pub(super) use latex::{closing_brace, is_latex, without_latex};
pub(super) use words::trimmed;
pub use words::{is_ideograph, words};
