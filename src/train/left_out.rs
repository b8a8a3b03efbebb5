//! Examples that cannot be used: they are left out, named and counted, and too many of them end the run.

use serde::{Deserialize, Serialize};

use super::error::TrainError;

/// The share that was left out is taken of at least this many examples.
const JUDGED_MIN: u64 = 200;

/// Counts the examples of a run, and those among them that were left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub struct LeftOut {
    drawn: u64,
    left_out: u64,
}

impl LeftOut {
    /// How many were drawn.
    pub fn drawn(self) -> u64 {
        self.drawn
    }

    /// How many were left out.
    pub fn total(self) -> u64 {
        self.left_out
    }

    /// Counts a step's `drawn` examples, of which one was left out for each of `reasons`. `rows` is the number of different examples.
    ///
    /// # Errors
    /// [`TrainError::LeftOut`] where they are more than the share `most` of all that were drawn, [`TrainError::NoneUsable`] where every row
    /// was drawn and none can be used.
    pub fn count(
        &mut self,
        drawn: usize,
        reasons: &[String],
        rows: Option<usize>,
        step: u64,
        most: f64,
    ) -> Result<(), TrainError> {
        self.drawn += drawn as u64;
        self.left_out += reasons.len() as u64;
        let Some(reason) = reasons.last() else { return Ok(()) };
        let (drawn, left_out, reason) = (self.drawn, self.left_out, reason.clone());
        if left_out == drawn && rows.is_some_and(|rows| drawn >= rows as u64) {
            return Err(TrainError::NoneUsable { drawn, step, reason });
        }
        if left_out as f64 > most * drawn.max(JUDGED_MIN) as f64 {
            return Err(TrainError::LeftOut { left_out, drawn, step, most, reason });
        }
        Ok(())
    }
}
