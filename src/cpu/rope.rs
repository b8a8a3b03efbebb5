//! Rotation of query and key heads in place, a row at a time, and the write into pages.

use super::attention::{page_len, write_token};
use super::simd::{LANES, kernel};
use super::{Cpu, floats, floats_mut, for_row_blocks, values};
use crate::ops::Tensor;
use crate::ops::attention::{Heads, PAGE_TOKENS};
use crate::ops::rope::{PageWrite, Rope};

impl Rope for Cpu {
    fn rope_forward(&self, qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, write: Option<PageWrite<'_>>) {
        self.rotate_all(qkv, heads, cos_sin, 1.0);
        let Some(PageWrite { pages, slots }) = write else { return };
        assert_eq!(pages.cols(), page_len(heads), "rope: pages {:?} for {heads:?}", pages.shape());
        assert_eq!(slots.len(), qkv.rows(), "rope: slots {:?} for qkv {:?}", slots.shape(), qkv.shape());
        let pages = floats_mut(pages);
        for (row, &slot) in floats(qkv).chunks_exact(heads.qkv()).zip(values::<i32>(slots)) {
            let slot = slot as usize;
            let page = &mut pages[slot / PAGE_TOKENS * page_len(heads)..][..page_len(heads)];
            write_token(page, slot % PAGE_TOKENS, &row[heads.heads * heads.head_dim..], heads);
        }
    }

    fn rope_backward(&self, dqkv: &mut Tensor, heads: Heads, cos_sin: &Tensor) {
        self.rotate_all(dqkv, heads, cos_sin, -1.0);
    }
}

impl Cpu {
    fn rotate_all(&self, qkv: &mut Tensor, heads: Heads, cos_sin: &Tensor, sign: f32) {
        assert_eq!(qkv.cols(), heads.qkv(), "rope: qkv {:?} for {heads:?}", qkv.shape());
        assert_eq!(cos_sin.shape(), [qkv.rows(), heads.head_dim], "rope: cos_sin for qkv {:?}", qkv.shape());
        let cos_sin = floats(cos_sin);
        for_row_blocks(floats_mut(qkv), heads.qkv(), 2 * heads.qkv(), |first, rows| {
            rotate(self.simd, rows, &cos_sin[first * heads.head_dim..], heads, sign);
        });
    }
}

kernel! {
    /// Rotates the q and k heads of rows by `sign` times their angles.
    fn rotate<L>(rows: &mut [f32], cos_sin: &[f32], heads: Heads, sign: f32) {
        let Heads { heads: q_heads, kv_heads, head_dim } = heads;
        let half = head_dim / 2;
        let sign = L::splat(sign);
        for (row, cos_sin) in rows.chunks_exact_mut(heads.qkv()).zip(cos_sin.chunks_exact(head_dim)) {
            let (cosines, sines) = cos_sin.split_at(half);
            for head in row[..(q_heads + kv_heads) * head_dim].chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(half);
                let pairs = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
                for ((a, b), (c, s)) in pairs.zip(cosines.chunks(LANES).zip(sines.chunks(LANES))) {
                    let (x, y) = (L::load_tail(a, 0.0), L::load_tail(b, 0.0));
                    let (c, s) = (L::load_tail(c, 0.0), L::load_tail(s, 0.0).mul(sign));
                    x.mul(c).sub(y.mul(s)).store_tail(a);
                    y.mul(c).add(x.mul(s)).store_tail(b);
                }
            }
        }
    }
}
