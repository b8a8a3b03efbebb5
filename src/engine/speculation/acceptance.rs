//! How often drafted tokens are accepted, by the length of the match before them.

/// A rate of which nothing is known.
pub const UNKNOWN: f64 = 0.5;
/// What is left of a class's counts after each observation, engine-wide.
pub const ENGINE_KEEPS: f64 = 0.998;
/// The same within one sequence, which changes its subject more often.
pub const SEQUENCE_KEEPS: f64 = 0.95;
/// How many tries the expected rate counts as.
const EXPECTED_TRIES: f64 = 4.0;
/// Ranges of lengths of matches, each twice as wide as the one before: 2 and 3, 4 to 7, 8 to 15, 16 and more.
const CLASSES: usize = 4;

/// A drafted token, verified against the sampled one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Tokens before it that matched.
    pub match_len: usize,
    /// Whether they are the same.
    pub is_accepted: bool,
}

/// How often drafted tokens are accepted: counts that decay, by the length of the match.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    /// Drafted tokens that were accepted, and all, for each class.
    counts: [(f64, f64); CLASSES],
}

impl Acceptance {
    /// Counts a drafted token that was verified; of the earlier ones of its class a share `keeps` remains.
    pub fn count(&mut self, outcome: Outcome, keeps: f64) {
        let (hits, tries) = &mut self.counts[class(outcome.match_len)];
        *hits = *hits * keeps + f64::from(u8::from(outcome.is_accepted));
        *tries = *tries * keeps + 1.0;
    }

    /// The share of drafted tokens after a match of that length that are accepted. `expected` is the estimate while little was counted.
    pub fn rate(&self, match_len: usize, expected: f64) -> f64 {
        let (hits, tries) = self.counts[class(match_len)];
        (hits + EXPECTED_TRIES * expected) / (tries + EXPECTED_TRIES)
    }
}

fn class(match_len: usize) -> usize {
    (match_len.max(2).ilog2() as usize - 1).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_moves_from_what_was_expected_to_what_is_seen() {
        let mut acceptance = Acceptance::default();
        assert_eq!(acceptance.rate(3, 0.7), 0.7);
        for _ in 0..200 {
            acceptance.count(Outcome { match_len: 3, is_accepted: true }, SEQUENCE_KEEPS);
        }
        let (seen, unseen) = (acceptance.rate(2, 0.1), acceptance.rate(4, 0.1));
        assert!(seen > 0.8 && unseen == 0.1, "{seen} {unseen}");
        for _ in 0..50 {
            acceptance.count(Outcome { match_len: 2, is_accepted: false }, SEQUENCE_KEEPS);
        }
        assert!(acceptance.rate(3, 0.1) < 0.15, "a sequence forgets");
    }

    #[test]
    fn lengths_are_counted_in_classes() {
        assert_eq!([2, 3, 4, 7, 8, 15, 16, 400].map(class), [0, 0, 1, 1, 2, 2, 3, 3]);
    }
}
