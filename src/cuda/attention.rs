//! Attention over packed or paged keys: `kernels/attention.cu`.

use super::device::Argument::{self, Null};
use super::kernels::attention::{AttentionShape, SPLIT_KEYS, TILE_ROWS, WARPS, backward_bytes, forward_bytes};
use super::{Cuda, expect_shape, optional, size, tensor};
use crate::ops::attention::{Attention, Heads, Keys, PAGE_TOKENS, Packed};
use crate::ops::{Buffers, Dtype, Tensor};

/// Query tokens of a sequence, on average, up to which its splits are worth a block each.
const DECODE_TOKENS: usize = 16;

impl Attention for Cuda {
    fn attention_pages(&self, pages: usize, heads: Heads) -> Tensor {
        self.zeros(&[pages, 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim], Dtype::Activation)
    }

    fn attention_forward(&self, qkv: &Tensor, heads: Heads, keys: Keys<'_>) -> (Tensor, Tensor) {
        let tokens = qkv.rows();
        expect_shape("attention_forward qkv", qkv, &[tokens, heads.qkv()]);
        let o = self.empty(&[tokens, heads.heads * heads.head_dim], Dtype::Activation);
        let lse = self.empty(&[tokens, heads.heads], Dtype::F32);
        if tokens == 0 {
            return (o, lse);
        }
        let (bounds, prefixes, paged, causal) = match keys {
            Keys::Packed(Packed { bounds, prefixes, causal }) => (bounds, prefixes, None, causal),
            Keys::Paged { pages, bounds, page_tables, lengths } => {
                (bounds, None, Some((pages, page_tables, lengths)), true)
            }
        };
        let segments = bounds.len() - 1;
        let keys_max = paged.map_or(tokens, |(_, page_tables, _)| page_tables.cols() * PAGE_TOKENS);
        let splits = keys_max.div_ceil(SPLIT_KEYS);
        let is_split = paged.is_some() && splits > 1 && tokens <= DECODE_TOKENS * segments;
        let parts = is_split.then(|| self.empty(&[splits, tokens, heads.heads, heads.head_dim + 2], Dtype::F32));
        let (pages, page_tables, lengths) = match paged {
            Some((pages, page_tables, lengths)) => (Some(pages), Some(page_tables), Some(lengths)),
            None => (None, None, None),
        };
        let shape = shape(heads, tokens, segments, page_tables.map_or(0, Tensor::cols), causal);
        self.launch_shared(
            &kernel("attention_forward", heads),
            [tiles(tokens * heads.heads / heads.kv_heads, segments), heads.kv_heads, if is_split { splits } else { 1 }],
            forward_bytes(heads.head_dim, !is_split && splits > 1),
            &[
                tensor("qkv", qkv),
                tensor("bounds", bounds),
                optional("prefixes", prefixes),
                optional("pages", pages),
                optional("page_tables", page_tables),
                optional("lengths", lengths),
                if is_split { Null } else { tensor("o", &o) },
                if is_split { Null } else { tensor("lse", &lse) },
                optional("parts", parts.as_ref()),
                shape,
            ],
        );
        if let (Some(parts), Some(lengths)) = (&parts, lengths) {
            self.launch(
                "attention_join",
                [(tokens * heads.heads).div_ceil(WARPS), 1, 1],
                &[
                    tensor("parts", parts),
                    tensor("bounds", bounds),
                    tensor("lengths", lengths),
                    tensor("o", &o),
                    tensor("lse", &lse),
                    size(splits),
                    size(heads.head_dim),
                    shape,
                ],
            );
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
        segments: Packed<'_>,
    ) -> Tensor {
        let tokens = qkv.rows();
        expect_shape("attention_backward d_o", d_o, o.shape());
        expect_shape("attention_backward lse", lse, &[tokens, heads.heads]);
        let dqkv = self.empty(qkv.shape(), Dtype::Activation);
        if tokens == 0 {
            return dqkv;
        }
        let rows = tokens * heads.heads;
        let delta = self.empty(&[tokens, heads.heads], Dtype::F32);
        self.launch(
            "attention_backward_delta",
            [rows.div_ceil(WARPS), 1, 1],
            &[tensor("d_o", d_o), tensor("o", o), tensor("delta", &delta), size(rows), size(heads.head_dim)],
        );
        let count = segments.bounds.len() - 1;
        let arguments = [
            tensor("d_o", d_o),
            tensor("qkv", qkv),
            tensor("lse", lse),
            tensor("delta", &delta),
            tensor("bounds", segments.bounds),
            optional("prefixes", segments.prefixes),
            tensor("dqkv", &dqkv),
            shape(heads, tokens, count, 0, segments.causal),
        ];
        for (name, rows_per_token) in
            [("attention_backward_queries", heads.heads / heads.kv_heads), ("attention_backward_keys", 1)]
        {
            self.launch_shared(
                &kernel(name, heads),
                [tiles(tokens * rows_per_token, count), heads.kv_heads, 1],
                backward_bytes(heads.head_dim),
                &arguments,
            );
        }
        dqkv
    }
}

/// The variant of a kernel for a width of heads.
#[track_caller]
fn kernel(name: &str, heads: Heads) -> String {
    let dim = heads.head_dim;
    assert!(
        dim.is_multiple_of(16) && (16..=128).contains(&dim),
        "{name}: head_dim {dim} is not a multiple of 16 up to 128"
    );
    format!("{name}_{dim}")
}

/// At least as many blocks as the segments have tiles: each may end with one that is not full.
fn tiles(rows: usize, segments: usize) -> usize {
    rows / TILE_ROWS + segments
}

/// The kernels' sizes and settings.
#[track_caller]
fn shape(heads: Heads, tokens: usize, segments: usize, pages_max: usize, causal: bool) -> Argument<'static> {
    let size = |of| i32::try_from(of).expect("a size of fewer than 2³¹");
    Argument::by_value(&AttentionShape {
        heads: size(heads.heads),
        kv_heads: size(heads.kv_heads),
        tokens: size(tokens),
        segments: size(segments),
        pages_max: size(pages_max),
        is_causal: i32::from(causal),
        scale: heads.scale(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What compute capabilities 8.6, 8.9 and 12.0 give a block; 8.0 and 9.0 give more.
    #[test]
    fn a_block_needs_no_more_shared_memory_than_every_gpu_has() {
        for head_dim in (16..=128).step_by(16) {
            assert!(forward_bytes(head_dim, true).max(backward_bytes(head_dim)) <= 99 * 1024, "{head_dim}");
        }
    }
}
