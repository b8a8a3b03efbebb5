//! Reproducible random draws for tasks: SplitMix64 keyed by seed, index and purpose, so that any sample can be drawn alone.

/// A stream of draws. Equal keys give equal streams on every machine.
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    /// The stream of one `purpose` (a tag that keeps streams of one sample apart) for sample `index` of `seed`.
    pub(super) fn new(seed: u64, index: u64, purpose: u64) -> Self {
        Draws { state: mix(mix(mix(seed) ^ index) ^ purpose) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// An integer in `0..bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// An integer in `-bound..=bound`.
    pub(super) fn around_zero(&mut self, bound: i32) -> i32 {
        self.below(2 * bound.unsigned_abs() as u64 + 1) as i32 - bound
    }

    /// A number in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `choices`, which are not empty.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Puts `items` in random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood 2014): a bijection whose every output bit depends on every input bit.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
