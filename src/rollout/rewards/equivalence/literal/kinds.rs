//! What digits that are no mathematics may be: a date, a time, a pair, a code.

use super::super::number::Number;
use super::super::unit::Unit;

/// What a text reads as.
#[derive(Clone, Debug)]
pub(super) enum Literal {
    /// A date whose parts are known by name or by ISO 8601's order.
    Date {
        /// The year, where it is said.
        year: Option<u32>,
        month: u32,
        /// The day, where it is said.
        day: Option<u32>,
    },
    /// A date in digits, whose order depends on the country.
    NumericDate(Vec<u32>),
    /// A time of day.
    Time {
        /// Hours, minutes, seconds.
        parts: [u32; 3],
        /// `Some(true)` that `pm` follows.
        is_afternoon: Option<bool>,
    },
    /// Numbers with a sign between them.
    Parts(Sign, Vec<Part>),
    /// A code: its groups in lower case.
    Code(Vec<String>),
}

/// A number of a pair with its unit.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) number: Number,
    pub(super) unit: Unit,
}

/// What stands between the numbers of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sign {
    /// `6-8`, `6 to 8`.
    Range,
    /// `3:2`.
    Ratio,
    /// `4×6`, `4 by 6`.
    Size,
    /// `3/4`.
    Slash,
}
