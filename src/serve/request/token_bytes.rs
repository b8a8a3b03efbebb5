//! Bytes that tokens take in JSON.

use crate::prompt::Tokenizer;

/// Bytes that a token of a vocabulary takes in JSON.
#[derive(Clone, Copy, Debug)]
pub struct TokenBytes {
    /// As text: the mean of the vocabulary, and the most.
    pub text: Weight,
    /// As a list of its bytes.
    pub list: Weight,
}

/// A size: its mean and its most over a vocabulary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weight {
    /// Over the vocabulary, in bytes.
    pub mean: f64,
    /// The largest, in bytes.
    pub most: f64,
}

impl Weight {
    fn of(sizes: impl Iterator<Item = usize>) -> Weight {
        let (mut count, mut sum, mut most) = (0, 0, 0);
        for size in sizes {
            (count, sum, most) = (count + 1, sum + size, most.max(size));
        }
        Weight { mean: sum as f64 / f64::max(1.0, f64::from(count)), most: most as f64 }
    }

    /// The mean, or the most where a client can choose the tokens.
    pub fn get(self, is_chosen: bool) -> f64 {
        if is_chosen { self.most } else { self.mean }
    }
}

impl TokenBytes {
    /// Those of the first `vocab` ids.
    pub fn of(tokenizer: &Tokenizer, vocab: usize) -> TokenBytes {
        let bytes = |id: usize| tokenizer.token_bytes(id as u32);
        // A control character takes six bytes; half a character becomes one of three.
        let text =
            |bytes: &[u8]| bytes.iter().map(|byte| if *byte < 0x20 { 6 } else { 1 + usize::from(*byte >= 0x80) }).sum();
        let list = |bytes: &[u8]| bytes.iter().map(|byte| 2 + usize::from(*byte > 9) + usize::from(*byte > 99)).sum();
        TokenBytes {
            text: Weight::of((0..vocab).map(|id| text(bytes(id)))),
            list: Weight::of((0..vocab).map(|id| list(bytes(id)))),
        }
    }
}
