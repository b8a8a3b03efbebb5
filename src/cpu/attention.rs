//! Attention in full f32 over tiles of 16 keys. A tile is a page, at keys 0-15, 16-31, … of its sequence; in it the keys of a head lie
//! transposed, `[head_dim][16]`, and the values as rows, `[16][head_dim]`. Packed keys are first laid out as pages, so there is one
//! arithmetic: a score is a chain over `head_dim`, the sum of a softmax runs in 16 lanes by position, an output is a chain over keys.

mod backward;
mod forward;
mod pages;
mod segments;

use forward::{HEAD_DIM_MAX, Sequence, attend_all};
pub(super) use pages::{page_len, write_token};
use segments::{bounds_of, segments_of};

use super::{Cpu, floats, values};
use crate::ops::attention::{Attention, Bounds, Heads, Keys, PAGE_TOKENS, Packed};
use crate::ops::{Buffers, Dtype, Host, Tensor};

impl Attention for Cpu {
    fn attention_pages(&self, pages: usize, heads: Heads) -> Tensor {
        self.zeros(&[pages, page_len(heads)], Dtype::Activation)
    }

    fn attention_bounds(&self, bounds: &[i32], _: Heads) -> Bounds {
        Bounds { rows: self.upload(Host::I32(bounds), &[bounds.len()], Dtype::I32), plan: None }
    }

    fn attention_forward(&self, qkv: &Tensor, heads: Heads, keys: Keys<'_>) -> (Tensor, Tensor) {
        check(qkv, heads);
        let tokens = qkv.rows();
        let mut o = self.empty(&[tokens, heads.heads * heads.head_dim], Dtype::Activation);
        let mut lse = self.empty(&[tokens, heads.heads], Dtype::F32);
        let (o_rows, lse_rows) = (super::floats_mut(&mut o), super::floats_mut(&mut lse));
        match keys {
            Keys::Packed(packed) => {
                let segments = segments_of(packed, tokens);
                let (pages, page_tables) = self.pack(floats(qkv), heads, &segments);
                let sequences: Vec<Sequence<'_>> = segments
                    .iter()
                    .zip(&page_tables)
                    .map(|(segment, page_table)| Sequence {
                        rows: segment.rows,
                        page_table,
                        length: segment.keys(),
                        causal: packed.causal,
                    })
                    .collect();
                attend_all(self.simd, floats(qkv), &pages, &sequences, heads, o_rows, lse_rows);
            }
            Keys::Paged { pages, bounds, page_tables, lengths } => {
                let bounds = bounds_of(bounds, tokens);
                let lengths: &[i32] = values(lengths);
                assert_eq!(pages.cols(), page_len(heads), "attention: pages {:?} for {heads:?}", pages.shape());
                assert_eq!(lengths.len() + 1, bounds.len(), "attention: lengths of {} sequences", bounds.len() - 1);
                assert_eq!(page_tables.rows(), lengths.len(), "attention: page_tables {:?}", page_tables.shape());
                let pages_max = page_tables.cols();
                let page_tables: &[i32] = values(page_tables);
                let sequences: Vec<Sequence<'_>> = bounds
                    .windows(2)
                    .zip(lengths)
                    .enumerate()
                    .map(|(i, (bound, &length))| {
                        let length = length as usize;
                        assert!(
                            bound[1] - bound[0] <= length && length <= pages_max * PAGE_TOKENS,
                            "attention: sequence {i} of {length} tokens has queries {bound:?} and {pages_max} pages"
                        );
                        let page_table = &page_tables[i * pages_max..][..pages_max];
                        Sequence { rows: (bound[0], bound[1]), page_table, length, causal: true }
                    })
                    .collect();
                attend_all(self.simd, floats(qkv), floats(pages), &sequences, heads, o_rows, lse_rows);
            }
        }
        (o, lse)
    }

    fn attention_backward(
        &self,
        d_o: &Tensor,
        qkv: &Tensor,
        o: &Tensor,
        lse: &Tensor,
        heads: Heads,
        packed: Packed<'_>,
    ) -> Tensor {
        check(qkv, heads);
        let tokens = qkv.rows();
        let width = heads.heads * heads.head_dim;
        for (name, tensor, cols) in [("do", d_o, width), ("o", o, width), ("lse", lse, heads.heads)] {
            assert_eq!(tensor.len(), tokens * cols, "attention_backward: {name} {:?}", tensor.shape());
        }
        let segments = segments_of(packed, tokens);
        let (d_o, o, lse, causal) = (floats(d_o), floats(o), floats(lse), packed.causal);
        let inputs = backward::Inputs { d_o, qkv: floats(qkv), o, lse, heads, causal };
        let mut dqkv = self.empty(qkv.shape(), Dtype::Activation);
        backward::backward(self, &inputs, &segments, super::floats_mut(&mut dqkv));
        dqkv
    }
}

fn check(qkv: &Tensor, heads: Heads) {
    assert!(
        heads.head_dim <= HEAD_DIM_MAX && heads.kv_heads > 0 && heads.heads.is_multiple_of(heads.kv_heads),
        "attention: {heads:?}; at most {HEAD_DIM_MAX} wide, kv_heads dividing heads"
    );
    assert_eq!(qkv.cols(), heads.qkv(), "attention: qkv {:?} for {heads:?}", qkv.shape());
}
