//! Attention by explicit rows of probabilities: see [`crate::ops::attention`].

use super::buffers::{f64s, floats, i32s};
use super::linear::{add_scaled, dot};
use super::{Reference, expect_shape};
use crate::ops::attention::{Attention, Bounds, Heads, Keys, PAGE_TOKENS, Packed};
use crate::ops::{Buffers, Dtype, Host, Tensor};

impl Attention for Reference {
    /// Order inside a page: keys then values, and in each `[kv_heads, PAGE_TOKENS, head_dim]`.
    fn attention_pages(&self, pages: usize, heads: Heads) -> Tensor {
        self.zeros(&[pages, 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim], Dtype::Activation)
    }

    fn attention_bounds(&self, bounds: &[i32], _: Heads) -> Bounds {
        Bounds { rows: self.upload(Host::I32(bounds), &[bounds.len()], Dtype::I32), plan: None }
    }

    fn attention_forward(&self, qkv: &Tensor, heads: Heads, keys: Keys<'_>) -> (Tensor, Tensor) {
        let tokens = qkv.rows();
        expect_shape("attention_forward qkv", qkv, &[tokens, heads.qkv()]);
        let dim = heads.head_dim;
        let mut o = vec![0.0; tokens * heads.heads * dim];
        let mut lse = vec![0.0; tokens * heads.heads];
        for_each_query(tokens, keys, |row, sequence, visible| {
            for head in 0..heads.heads {
                let kv_head = head / (heads.heads / heads.kv_heads);
                let q = &f64s(qkv)[row * heads.qkv() + head * dim..][..dim];
                let scores: Vec<f64> = visible
                    .clone()
                    .map(|j| scale(heads) * dot(q, key_or_value(qkv, heads, keys, sequence, j, kv_head, 0)))
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let log_sum = top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
                lse[row * heads.heads + head] = log_sum;
                let o = &mut o[(row * heads.heads + head) * dim..][..dim];
                for (j, score) in visible.clone().zip(&scores) {
                    add_scaled(o, (score - log_sum).exp(), key_or_value(qkv, heads, keys, sequence, j, kv_head, 1));
                }
            }
        });
        (floats(o, &[tokens, heads.heads * dim], Dtype::Activation), floats(lse, &[tokens, heads.heads], Dtype::F32))
    }

    fn attention_backward(
        &self,
        d_o: &Tensor,
        qkv: &Tensor,
        o: &Tensor,
        lse: &Tensor,
        heads: Heads,
        segments: Packed<'_>,
    ) -> Tensor {
        let tokens = qkv.rows();
        expect_shape("attention_backward qkv", qkv, &[tokens, heads.qkv()]);
        expect_shape("attention_backward do", d_o, &[tokens, heads.heads * heads.head_dim]);
        expect_shape("attention_backward o", o, d_o.shape());
        expect_shape("attention_backward lse", lse, &[tokens, heads.heads]);
        let (dim, width, scale) = (heads.head_dim, heads.qkv(), scale(heads));
        let qkv = f64s(qkv);
        let mut dqkv = vec![0.0; tokens * width];
        for_each_query(tokens, Keys::Packed(segments), |row, segment, visible| {
            for head in 0..heads.heads {
                let kv_head = head / (heads.heads / heads.kv_heads);
                let query = row * width + head * dim;
                let d_o = &f64s(d_o)[(row * heads.heads + head) * dim..][..dim];
                let delta = dot(d_o, &f64s(o)[(row * heads.heads + head) * dim..][..dim]);
                for j in visible.clone() {
                    let key = key_row(segments, segment, j) * width + (heads.heads + kv_head) * dim;
                    let value = key + heads.kv_heads * dim;
                    let s = scale * dot(&qkv[query..][..dim], &qkv[key..][..dim]);
                    let p = (s - f64s(lse)[row * heads.heads + head]).exp();
                    let ds = p * (dot(d_o, &qkv[value..][..dim]) - delta);
                    add_scaled(&mut dqkv[query..][..dim], scale * ds, &qkv[key..][..dim]);
                    add_scaled(&mut dqkv[key..][..dim], scale * ds, &qkv[query..][..dim]);
                    add_scaled(&mut dqkv[value..][..dim], p, d_o);
                }
            }
        });
        floats(dqkv, &[tokens, width], Dtype::Activation)
    }
}

/// [`Heads::scale`] without its rounding to f32.
fn scale(heads: Heads) -> f64 {
    1.0 / (heads.head_dim as f64).sqrt()
}

/// Calls `visit(row, sequence, visible keys)` for every query; keys are numbered by their position in the sequence.
fn for_each_query(tokens: usize, keys: Keys<'_>, mut visit: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let (Keys::Packed(Packed { bounds, .. }) | Keys::Paged { bounds, .. }) = keys;
    let bounds = i32s(&bounds.rows);
    assert_eq!(bounds.first(), Some(&0), "attention bounds {bounds:?}");
    assert_eq!(bounds[bounds.len() - 1] as usize, tokens, "attention bounds {bounds:?} of {tokens} tokens");
    for (sequence, bound) in bounds.windows(2).enumerate() {
        let (start, end) = (bound[0] as usize, bound[1] as usize);
        let (length, causal) = match keys {
            Keys::Packed(segments) => (prefix_rows(segments, sequence).len() + end - start, segments.causal),
            Keys::Paged { lengths, .. } => (i32s(lengths)[sequence] as usize, true),
        };
        for row in start..end {
            visit(row, sequence, 0..if causal { length - (end - row - 1) } else { length });
        }
    }
}

/// The rows that come before a segment's own.
fn prefix_rows(segments: Packed<'_>, segment: usize) -> std::ops::Range<usize> {
    let bounds = i32s(&segments.bounds.rows);
    match segments.prefixes.map_or(-1, |prefixes| i32s(prefixes)[segment]) {
        -1 => 0..0,
        prefix => bounds[prefix as usize] as usize..bounds[prefix as usize + 1] as usize,
    }
}

/// The row of a segment's key `j`.
fn key_row(segments: Packed<'_>, segment: usize, j: usize) -> usize {
    let prefix = prefix_rows(segments, segment);
    if j < prefix.len() { prefix.start + j } else { i32s(&segments.bounds.rows)[segment] as usize + j - prefix.len() }
}

/// Key (`half` 0) or value (`half` 1) number `j` of a sequence, from the rows or from the pages.
fn key_or_value<'a>(
    qkv: &'a Tensor,
    heads: Heads,
    keys: Keys<'a>,
    sequence: usize,
    j: usize,
    kv_head: usize,
    half: usize,
) -> &'a [f64] {
    let at = match keys {
        Keys::Packed(segments) => {
            let head = heads.heads + half * heads.kv_heads + kv_head;
            key_row(segments, sequence, j) * heads.qkv() + head * heads.head_dim
        }
        Keys::Paged { page_tables, .. } => {
            let page = i32s(page_tables)[sequence * page_tables.cols() + j / PAGE_TOKENS] as usize;
            in_page(heads, page * PAGE_TOKENS + j % PAGE_TOKENS, kv_head, half)
        }
    };
    let from = match keys {
        Keys::Packed(_) => qkv,
        Keys::Paged { pages, .. } => pages,
    };
    &f64s(from)[at..][..heads.head_dim]
}

/// Where the key (`half` 0) or value (`half` 1) of a slot starts in a layer's pages.
pub fn in_page(heads: Heads, slot: usize, kv_head: usize, half: usize) -> usize {
    let head = (slot / PAGE_TOKENS * 2 + half) * heads.kv_heads + kv_head;
    (head * PAGE_TOKENS + slot % PAGE_TOKENS) * heads.head_dim
}
