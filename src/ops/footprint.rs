//! What a backend takes of a device's memory, for plans that are made before there is one.

use super::attention::Heads;

/// What tensors take on a device, known before there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// Bytes of an element of [`super::Dtype::Activation`].
    pub activation_bytes: usize,
    /// Elements up to which a matrix of parameters is kept a second time, laid out for products; 0 where none is.
    pub packed_elements_max: usize,
    /// How attention of decoded tokens is cut along their keys; not at all where absent.
    pub splits: Option<Splits>,
}

/// Keys of decoded tokens are cut into splits, and of each split's part of a row of attention is held until all are joined, in f32: its sums,
/// the largest score, the sum of weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Splits {
    /// Query tokens of a sequence up to which it is decoded.
    pub tokens: usize,
    /// Keys of a split.
    pub keys: usize,
    /// Bytes of parts that are held at a time at most.
    pub bytes_max: usize,
}

impl Footprint {
    /// The most bytes of parts that attention holds of `sequences` sequences of up to `keys` keys; each has `tokens` decoded tokens, or as many
    /// as may be.
    pub fn parts_bytes(&self, heads: Heads, sequences: usize, tokens: Option<usize>, keys: usize) -> u128 {
        let Some(splits) = self.splits.filter(|splits| keys > splits.keys) else { return 0 };
        let row = (heads.head_dim + 2) * size_of::<f32>();
        let rows = sequences * tokens.unwrap_or(splits.tokens) * heads.heads;
        (keys.div_ceil(splits.keys) as u128 * rows as u128 * row as u128).min(splits.bytes_max as u128)
    }
}
