//! Keys and values in pages: where each stands, and packed ones laid out so.

use super::super::memory::Floats;
use super::super::{Cpu, tasks};
use super::segments::Segment;
use crate::ops::attention::{Heads, PAGE_TOKENS};

/// Floats of a page.
#[inline]
pub fn page_len(heads: Heads) -> usize {
    2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim
}

/// Where the rotated key and value of a token's heads lie in its page. `key_value` are the key heads, then the value heads.
#[inline]
pub fn write_token(page: &mut [f32], offset: usize, key_value: &[f32], heads: Heads) {
    let (keys, values) = key_value.split_at(heads.kv_heads * heads.head_dim);
    let (key_tiles, value_tiles) = page.split_at_mut(PAGE_TOKENS * keys.len());
    for (slots, &key) in key_tiles.chunks_exact_mut(PAGE_TOKENS).zip(keys) {
        slots[offset] = key;
    }
    let value_tiles = value_tiles.chunks_exact_mut(PAGE_TOKENS * heads.head_dim);
    for (tile, value) in value_tiles.zip(values.chunks_exact(heads.head_dim)) {
        tile[offset * heads.head_dim..][..heads.head_dim].copy_from_slice(value);
    }
}

impl Cpu {
    /// The keys and values of packed qkv as pages, and each segment's table. The whole pages of a prefix are shared; what is left of it
    /// stands once more in the first page of each segment that it precedes.
    pub(super) fn pack(&self, qkv: &[f32], heads: Heads, segments: &[Segment]) -> (Floats, Vec<Vec<i32>>) {
        let mut contents: Vec<(&Segment, usize)> = Vec::new();
        let mut page_tables: Vec<Vec<i32>> = Vec::with_capacity(segments.len());
        for segment in segments {
            let shared = segment.prefix_len() / PAGE_TOKENS;
            let mut page_table = segment.prefix.map_or(Vec::new(), |prefix| page_tables[prefix][..shared].to_vec());
            for first in (shared * PAGE_TOKENS..segment.keys()).step_by(PAGE_TOKENS) {
                page_table.push(contents.len() as i32);
                contents.push((segment, first));
            }
            page_tables.push(page_table);
        }
        let mut pages = self.scratch(contents.len() * page_len(heads));
        let tasks = contents.into_iter().zip(pages.chunks_exact_mut(page_len(heads))).collect();
        tasks::for_each(tasks, 2 * qkv.len(), |((segment, first), page)| {
            let end = segment.keys().min(first + PAGE_TOKENS);
            if end - first < PAGE_TOKENS {
                page.fill(0.0); // old memory may hold numbers that are slow to compute with
            }
            for position in first..end {
                let row = &qkv[segment.row(position) * heads.qkv()..][..heads.qkv()];
                write_token(page, position - first, &row[heads.heads * heads.head_dim..], heads);
            }
        });
        (pages, page_tables)
    }
}
