//! Examples from several sources with weights: which source each draw comes from.

use crate::ops::sample::philox_uniform;

/// Shares are counted in so many bits behind the point, so that a source's count is exact whatever the number of draws.
const SHARE_BITS: u32 = 32;

/// The sequence of random numbers that sources begin with; epochs, which shuffle by the same seed, never get so far.
const OFFSETS: u64 = u64::MAX;

/// The shares of sources. After any number of draws every source has been drawn as often as its share says, to within one draw for each source
/// before it: systematic sampling (Madow and Madow 1944), source by source. A seed gives the places where counting begins. Which source a draw comes from,
/// and how often that source was drawn before, depends on the draw's number only, so a run resumes anywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shares {
    /// Of each source but the last: its share of the draws that no source before it takes, and where counting begins.
    sources: Vec<(u64, u64)>,
}

impl Shares {
    /// Shares in proportion to weights, which are above 0.
    pub fn new(weights: &[f64], seed: u64) -> Shares {
        let one = (1u64 << SHARE_BITS) as f64;
        let share = |source: usize| {
            let rest: f64 = weights[source..].iter().sum();
            let share = ((weights[source] / rest * one).round() as u64).max(1);
            (share, (philox_uniform(seed, OFFSETS, source as u64) * one) as u64)
        };
        Shares { sources: (0..weights.len().saturating_sub(1)).map(share).collect() }
    }

    /// The source of draw `number`, and how many draws before it came from there.
    pub fn place(&self, number: u64) -> (usize, u64) {
        let mut number = number;
        for (source, &(share, offset)) in self.sources.iter().enumerate() {
            let drawn =
                |draws: u64| ((u128::from(draws) * u128::from(share) + u128::from(offset)) >> SHARE_BITS) as u64;
            if drawn(number + 1) > drawn(number) {
                return (source, drawn(number));
            }
            number -= drawn(number);
        }
        (self.sources.len(), number)
    }
}
