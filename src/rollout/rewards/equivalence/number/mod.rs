//! Numbers as answers write them: their arithmetic ([`arithmetic`]) and their names in words and numerals ([`names`]).

mod arithmetic;
mod names;

pub(super) use arithmetic::Number;
pub(super) use names::{ideographic, is_number_word, is_ordinal, ordinal_digits, scale, spoken, unit_fraction};
