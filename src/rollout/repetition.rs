//! Notices that a model repeats itself, byte by byte as the text comes: a rolling hash (Karp and Rabin 1987) of fixed-length
//! substrings, and the share of the text that lies in substrings seen before.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// Modulus of the hash, the Mersenne prime 2^61 - 1: two different substrings collide with a chance of about 2^-55, which is ignored.
const MODULUS: u64 = (1 << 61) - 1;
/// Base of the hash; any number of this size does.
const BASE: u64 = 0x0123_4567_89AB_CDEF;

/// When text counts as repeating itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepetitionSettings {
    /// Length of the substrings in bytes.
    pub substring_bytes: usize,
    /// Share of the turn's text that must lie in substrings seen before; 1 or more switches the detector off.
    pub share: f64,
    /// Shorter turns are never judged, in bytes.
    pub text_bytes_min: usize,
}

impl Default for RepetitionSettings {
    fn default() -> Self {
        Self { substring_bytes: 32, share: 0.5, text_bytes_min: 512 }
    }
}

/// The detector over one turn.
pub struct Repetition {
    settings: RepetitionSettings,
    /// `BASE ^ (substring_bytes - 1)`.
    lead: u64,
    bytes: Vec<u8>,
    hash: u64,
    seen: HashSet<u64>,
    /// Bytes that lie in a substring seen before, and up to where they are counted.
    repeated: usize,
    counted: usize,
}

impl Repetition {
    /// A detector that has seen nothing.
    pub fn new(settings: RepetitionSettings) -> Self {
        let settings = RepetitionSettings { substring_bytes: settings.substring_bytes.max(1), ..settings };
        let lead = (1..settings.substring_bytes).fold(1, |lead, _| multiply(lead, BASE));
        Self { settings, lead, bytes: Vec::new(), hash: 0, seen: HashSet::new(), repeated: 0, counted: 0 }
    }

    /// Forgets the text, for the next turn.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.seen.clear();
        (self.hash, self.repeated, self.counted) = (0, 0, 0);
    }

    /// Takes the next bytes, and says whether the text repeats itself.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            self.push_byte(byte);
        }
        let length = self.bytes.len();
        length >= self.settings.text_bytes_min && self.repeated as f64 > self.settings.share * length as f64
    }

    fn push_byte(&mut self, byte: u8) {
        let window = self.settings.substring_bytes;
        if self.bytes.len() >= window {
            let leaving = self.bytes[self.bytes.len() - window];
            self.hash = (self.hash + MODULUS - multiply(value(leaving), self.lead)) % MODULUS;
        }
        self.hash = (multiply(self.hash, BASE) + value(byte)) % MODULUS;
        self.bytes.push(byte);
        let end = self.bytes.len();
        if end >= window && !self.seen.insert(self.hash) {
            self.repeated += end - self.counted.max(end - window);
            self.counted = end;
        }
    }
}

/// A byte as a digit; never 0, so that leading zero bytes count.
fn value(byte: u8) -> u64 {
    u64::from(byte) + 1
}

fn multiply(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(MODULUS)) as u64
}
