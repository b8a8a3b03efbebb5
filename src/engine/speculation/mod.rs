//! Speculative decoding without a second model: what a sequence said before is a draft of what it says next (prompt lookup), and one step
//! of the model checks several drafted tokens at once. What is sampled depends on seed, sequence and position alone, and a row's bits do not
//! depend on its neighbours: so a drafted token is accepted exactly when it is the one that is sampled in its place, and neither tokens
//! nor log-probabilities show that there was a draft.
//!
//! A drafted token costs a row. Whether that repays is measured: how often drafted tokens are accepted, by the length of the match before them,
//! and how a step's time grows with its rows. Watching costs no rows: drafted tokens that are not scheduled are still compared with what is
//! sampled.

pub mod acceptance;
pub mod drafter;
pub mod step_time;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use acceptance::{Acceptance, Outcome};
use drafter::Drafter;
use step_time::StepTime;

/// Tokens of a draft at most.
pub const DRAFT_TOKENS_MAX: usize = 8;
/// A drafted token's row has to bring more than this many times what it costs: neither is known exactly.
const GAIN_MIN: f64 = 1.25;
/// No row is taken to cost less than this share of a token, whatever was measured.
const PRICE_MIN: f64 = 0.1;

/// Whether an engine drafts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// Never: each step samples one token of a sequence.
    #[default]
    Off,
    /// Where the expected gain is more than 1.25 times the measured cost.
    Auto,
    /// Wherever there is something to draft, whether it repays or not.
    Always,
}

/// What an engine knows of its drafts.
#[derive(Debug, Default)]
pub struct Speculator {
    speculation: Speculation,
    acceptance: Acceptance,
    step_time: StepTime,
}

impl Speculator {
    /// One that knows nothing yet.
    pub fn new(speculation: Speculation) -> Speculator {
        Speculator { speculation, ..Speculator::default() }
    }

    /// Whether there are drafts at all.
    pub fn is_on(&self) -> bool {
        self.speculation != Speculation::Off
    }

    /// How many tokens may be drafted in a step that has `rows` rows without them.
    pub fn rows_max(&self, rows: usize) -> usize {
        match self.speculation {
            Speculation::Off => 0,
            Speculation::Auto => self.step_time.rows_known().saturating_sub(rows),
            Speculation::Always => usize::MAX,
        }
    }

    /// How many tokens of a sequence's draft are worth a row each in a step where `decoding` sequences decode. A token's row brings a token if
    /// it and all before it in the draft are accepted, and costs a share of what a token costs without drafts.
    pub fn draft_len(&self, drafter: &Drafter, decoding: usize) -> usize {
        let draft = drafter.draft();
        if self.speculation == Speculation::Always {
            return draft.len();
        }
        let price = GAIN_MIN * self.step_time.price(decoding).max(PRICE_MIN);
        let mut chance = 1.0;
        let pays = |place: &usize| {
            let match_len = draft.match_len() + place;
            chance *= drafter.acceptance().rate(match_len, self.acceptance.rate(match_len, acceptance::UNKNOWN));
            chance > price
        };
        (0..draft.len()).take_while(pays).count()
    }

    /// Counts a drafted token that was verified.
    pub fn count(&mut self, outcome: Outcome) {
        self.acceptance.count(outcome, acceptance::ENGINE_KEEPS);
    }

    /// Takes note of the time of a step that computed `rows` tokens.
    pub fn time(&mut self, rows: usize, spent: Duration) {
        self.step_time.add(rows as f64, spent.as_secs_f64());
    }
}
