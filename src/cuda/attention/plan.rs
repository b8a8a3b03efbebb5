//! What attention's blocks work on, tile by tile: worked out on the host once a step, so that no block of any layer searches the segments.

use std::cmp::Reverse;

use crate::cuda::Cuda;
use crate::cuda::kernels::common::attention::TILE_ROWS;
use crate::ops::attention::Heads;
use crate::ops::{Buffers, Dtype, Host, Storage, Tensor};

/// Query tokens of a sequence up to which its splits are worth a block each.
pub const DECODE_TOKENS: usize = 16;

/// The tiles of some segments, as the launches have them.
pub struct Plan {
    /// Rows of a token in a tile: the query heads of a key/value head.
    pub group: usize,
    /// Tokens of the longest segment.
    pub longest: usize,
    /// I32 `[tiles, 2]`, the segment and the first row of each: those of prompts, of decoded tokens, of keys.
    pub tiles: Tensor,
    /// How many are of segments with many queries.
    pub prefill_tiles: usize,
    /// How many are of segments with up to [`DECODE_TOKENS`].
    pub decode_tiles: usize,
    /// The most rows that one of the latter has.
    pub decode_rows: usize,
    /// How many are of keys.
    pub key_tiles: usize,
}

impl Storage for Plan {}

impl Plan {
    /// Of segments between `bounds`.
    pub fn new(cuda: &Cuda, bounds: &[i32], heads: Heads) -> Plan {
        let group = heads.heads / heads.kv_heads;
        let [prefill, decode, keys] = tiles(bounds, group);
        let tokens = |tile: &[i32; 2]| tokens(bounds, tile[0] as usize);
        let all = [&prefill[..], &decode, &keys].concat();
        Plan {
            group,
            longest: keys.first().map_or(0, tokens),
            tiles: cuda.upload(Host::I32(all.as_flattened()), &[all.len(), 2], Dtype::I32),
            prefill_tiles: prefill.len(),
            decode_tiles: decode.len(),
            decode_rows: decode.first().map_or(0, |tile| (tokens(tile) * group).min(TILE_ROWS)),
            key_tiles: keys.len(),
        }
    }

    /// Tiles of queries.
    pub fn query_tiles(&self) -> usize {
        self.prefill_tiles + self.decode_tiles
    }
}

fn tokens(bounds: &[i32], segment: usize) -> usize {
    (bounds[segment + 1] - bounds[segment]) as usize
}

/// Segment and first row of the tiles of queries of prompts, of queries of decoded tokens, and of keys. Those that take longest come first, so
/// that the last blocks of a launch are short; a segment's stay together, so that its keys stay in the cache.
fn tiles(bounds: &[i32], group: usize) -> [Vec<[i32; 2]>; 3] {
    let mut segments: Vec<usize> = (0..bounds.len() - 1).collect();
    segments.sort_by_key(|&segment| Reverse(tokens(bounds, segment)));
    let firsts =
        |segment: usize, rows: usize| (0..rows).step_by(TILE_ROWS).map(move |first| [segment, first].map(index));
    let [mut prefill, mut decode, mut keys] = [const { Vec::new() }; 3];
    for segment in segments {
        let tokens = tokens(bounds, segment);
        // A later row sees more keys, and an earlier key is seen by more rows.
        let of = if tokens > DECODE_TOKENS { &mut prefill } else { &mut decode };
        of.extend(firsts(segment, tokens * group).rev());
        keys.extend(firsts(segment, tokens));
    }
    [prefill, decode, keys]
}

fn index(of: usize) -> i32 {
    i32::try_from(of).expect("an index of fewer than 2³¹")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_one_tile_and_the_longest_come_first() {
        let bounds = [0, 0, 16, 33, 33, 233, 234];
        let [prefill, decode, keys] = tiles(&bounds, 7);
        let of = |segment: i32, firsts: &[i32]| Vec::from_iter(firsts.iter().map(move |first| [segment, *first]));
        let last: Vec<i32> = (0..22).rev().map(|tile| tile * 64).collect();
        assert_eq!(prefill, [of(4, &last), of(2, &[64, 0])].concat());
        assert_eq!(decode, [of(1, &[64, 0]), of(5, &[0])].concat());
        assert_eq!(keys, [of(4, &[0, 64, 128, 192]), of(2, &[0]), of(1, &[0]), of(5, &[0])].concat());
        assert_eq!(tiles(&[0], 1), [const { Vec::<[i32; 2]>::new() }; 3]);
    }
}
