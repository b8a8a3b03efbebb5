//! Rotary positions and the page write: see [`crate::ops::rope`].

use super::attention::in_page;
use super::buffers::{f64s, f64s_mut, i32s};
use super::{Reference, expect_shape};
use crate::ops::Tensor;
use crate::ops::attention::Heads;
use crate::ops::rope::{PageWrite, Rope};

impl Rope for Reference {
    fn rope_forward(&self, qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, write: Option<PageWrite<'_>>) {
        rotate(qkv, heads, cos_sin, 1.0);
        let Some(PageWrite { pages, slots }) = write else { return };
        expect_shape("rope_forward slots", slots, &[qkv.rows()]);
        for (row, slot) in f64s(qkv).chunks_exact(heads.qkv()).zip(i32s(slots)) {
            let keys_and_values = row[heads.heads * heads.head_dim..].chunks_exact(heads.head_dim);
            for (head, from) in keys_and_values.enumerate() {
                let at = in_page(heads, *slot as usize, head % heads.kv_heads, head / heads.kv_heads);
                f64s_mut(pages)[at..][..heads.head_dim].copy_from_slice(from);
            }
        }
    }

    fn rope_backward(&self, dqkv: &mut Tensor, heads: Heads, cos_sin: &Tensor) {
        rotate(dqkv, heads, cos_sin, -1.0);
    }
}

/// Rotates q and k of every row by `direction` times its angles.
fn rotate(qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, direction: f64) {
    let (tokens, dim) = (qkv.rows(), heads.head_dim);
    expect_shape("rope qkv", qkv, &[tokens, heads.qkv()]);
    expect_shape("rope cos_sin", cos_sin, &[tokens, dim]);
    for (row, cos_sin) in f64s_mut(qkv).chunks_exact_mut(heads.qkv()).zip(f64s(cos_sin).chunks_exact(dim)) {
        for head in row.chunks_exact_mut(dim).take(heads.heads + heads.kv_heads) {
            for i in 0..dim / 2 {
                let (cosine, sine) = (cos_sin[i], direction * cos_sin[i + dim / 2]);
                let (a, b) = (head[i], head[i + dim / 2]);
                head[i] = a * cosine - b * sine;
                head[i + dim / 2] = b * cosine + a * sine;
            }
        }
    }
}
