//! Attention over packed or paged keys: `kernels/attention.cu`, `kernels/attention_backward.cu`.

mod plan;

use super::device::Argument::{self, Null};
use super::kernels::attention_backward::{backward_keys_bytes, backward_queries_bytes};
use super::kernels::common::attention::{AttentionShape, WARPS};
use super::kernels::common::attention_forward::{SPLIT_KEYS, forward_bytes};
use super::{Cuda, expect_shape, optional, rows_of, size, tensor};
use crate::ops::attention::{Attention, Bounds, Heads, Keys, PAGE_TOKENS, Packed};
use crate::ops::footprint::Splits;
use crate::ops::{Buffers, Dtype, Host, Tensor};
use plan::{DECODE_TOKENS, Plan};

/// Decoded tokens have a block for each split of their keys. Parts of as many tiles are held at a time as a GPU's second-level cache keeps
/// until they are joined; their blocks are more than enough for every multiprocessor.
pub(super) const SPLITS: Splits = Splits { tokens: DECODE_TOKENS, keys: SPLIT_KEYS, bytes_max: 32 << 20 };

/// What all launches of one forward have.
#[derive(Clone, Copy)]
struct Forward<'a> {
    qkv: &'a Tensor,
    heads: Heads,
    bounds: &'a Bounds,
    plan: &'a Plan,
    o: &'a Tensor,
    lse: &'a Tensor,
}

/// Where keys are that are not packed.
#[derive(Clone, Copy)]
struct Paged<'a> {
    pages: &'a Tensor,
    page_tables: &'a Tensor,
    lengths: &'a Tensor,
}

impl Attention for Cuda {
    fn attention_pages(&self, pages: usize, heads: Heads) -> Tensor {
        self.zeros(&[pages, 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim], Dtype::Activation)
    }

    fn attention_bounds(&self, bounds: &[i32], heads: Heads) -> Bounds {
        let rows = self.upload(Host::I32(bounds), &[bounds.len()], Dtype::I32);
        Bounds { rows, plan: Some(Box::new(Plan::new(self, bounds, heads))) }
    }

    fn attention_forward(&self, qkv: &Tensor, heads: Heads, keys: Keys<'_>) -> (Tensor, Tensor) {
        let tokens = qkv.rows();
        expect_shape("attention_forward qkv", qkv, &[tokens, heads.qkv()]);
        let o = self.empty(&[tokens, heads.heads * heads.head_dim], Dtype::Activation);
        let lse = self.empty(&[tokens, heads.heads], Dtype::F32);
        let (Keys::Packed(Packed { bounds, .. }) | Keys::Paged { bounds, .. }) = keys;
        let forward = Forward { qkv, heads, bounds, plan: plan_of(bounds, heads), o: &o, lse: &lse };
        match keys {
            Keys::Packed(packed) => self.attend_packed(forward, packed),
            Keys::Paged { pages, page_tables, lengths, .. } => {
                self.attend_paged(forward, Paged { pages, page_tables, lengths });
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
        segments: Packed<'_>,
    ) -> Tensor {
        let tokens = qkv.rows();
        expect_shape("attention_backward d_o", d_o, o.shape());
        expect_shape("attention_backward lse", lse, &[tokens, heads.heads]);
        let dqkv = self.empty(qkv.shape(), Dtype::Activation);
        let rows = tokens * heads.heads;
        let delta = self.empty(&[tokens, heads.heads], Dtype::F32);
        self.launch(
            "attention_backward_delta",
            [rows.div_ceil(WARPS), 1, 1],
            &[tensor("d_o", d_o), tensor("o", o), tensor("delta", &delta), size(rows), size(heads.head_dim)],
        );
        let plan = plan_of(segments.bounds, heads);
        let tiles = [
            ("attention_backward_queries", 0, plan.query_tiles(), backward_queries_bytes(heads.head_dim)),
            ("attention_backward_keys", plan.query_tiles(), plan.key_tiles, backward_keys_bytes(heads.head_dim)),
        ];
        for (name, first, count, shared_bytes) in tiles.into_iter().filter(|tiles| tiles.2 > 0) {
            self.launch_shared(
                &kernel(name, heads),
                [count, heads.kv_heads, 1],
                shared_bytes,
                &[
                    tensor("d_o", d_o),
                    tensor("qkv", qkv),
                    tensor("lse", lse),
                    tensor("delta", &delta),
                    tensor("bounds", &segments.bounds.rows),
                    optional("prefixes", segments.prefixes),
                    rows_of("tiles", &plan.tiles, first, count),
                    tensor("dqkv", &dqkv),
                    shape(heads, segments.bounds, 0, segments.causal),
                ],
            );
        }
        dqkv
    }
}

impl Cuda {
    fn attend_packed(&self, forward: Forward<'_>, packed: Packed<'_>) {
        let Forward { qkv, heads, bounds, plan, o, lse } = forward;
        let keys_max = if packed.prefixes.is_some() { qkv.rows() } else { plan.longest };
        let tiles = plan.query_tiles();
        if tiles == 0 {
            return;
        }
        self.launch_shared(
            &kernel("attention_forward", heads),
            [tiles, heads.kv_heads, 1],
            forward_bytes(heads.head_dim, keys_max > SPLIT_KEYS),
            &[
                tensor("qkv", qkv),
                tensor("bounds", &bounds.rows),
                optional("prefixes", packed.prefixes),
                rows_of("tiles", &plan.tiles, 0, tiles),
                tensor("o", o),
                tensor("lse", lse),
                shape(heads, bounds, 0, packed.causal),
            ],
        );
    }

    /// A tile of a chunk of a prompt goes through all its keys. One of decoded tokens has a block for each split of them, and another kernel
    /// joins what these leave: to the same bits.
    fn attend_paged(&self, forward: Forward<'_>, paged: Paged<'_>) {
        let (plan, heads) = (forward.plan, forward.heads);
        let splits = (paged.page_tables.cols() * PAGE_TOKENS).div_ceil(SPLIT_KEYS);
        let tile = [splits, 1, heads.kv_heads, plan.decode_rows, heads.head_dim + 2];
        let tile_bytes = tile.iter().product::<usize>() * size_of::<f32>();
        // Parts that are too large even for a tile are those of no context that a model has.
        let at_once = SPLITS.bytes_max.checked_div(tile_bytes).unwrap_or(0).min(plan.decode_tiles);
        if splits <= 1 || at_once == 0 {
            return self.attend_tiles(forward, paged, splits, (0, plan.query_tiles()), None);
        }
        self.attend_tiles(forward, paged, splits, (0, plan.prefill_tiles), None);
        let parts = self.empty(&[splits, at_once, heads.kv_heads, plan.decode_rows, heads.head_dim + 2], Dtype::F32);
        for first in (0..plan.decode_tiles).step_by(at_once) {
            let tiles = (plan.prefill_tiles + first, at_once.min(plan.decode_tiles - first));
            self.attend_tiles(forward, paged, splits, tiles, Some(&parts));
            self.join(forward, paged, tiles, &parts);
        }
    }

    fn attend_tiles(
        &self,
        forward: Forward<'_>,
        paged: Paged<'_>,
        splits: usize,
        (first, count): (usize, usize),
        parts: Option<&Tensor>,
    ) {
        let Forward { qkv, heads, bounds, plan, o, lse } = forward;
        if count == 0 {
            return;
        }
        self.launch_shared(
            &kernel("attention_forward_paged", heads),
            [count, heads.kv_heads, if parts.is_some() { splits } else { 1 }],
            forward_bytes(heads.head_dim, parts.is_none() && splits > 1),
            &[
                tensor("qkv", qkv),
                tensor("bounds", &bounds.rows),
                rows_of("tiles", &plan.tiles, first, count),
                tensor("pages", paged.pages),
                tensor("page_tables", paged.page_tables),
                tensor("lengths", paged.lengths),
                if parts.is_some() { Null } else { tensor("o", o) },
                if parts.is_some() { Null } else { tensor("lse", lse) },
                optional("parts", parts),
                size(plan.decode_rows),
                shape(heads, bounds, paged.page_tables.cols(), true),
            ],
        );
    }

    fn join(&self, forward: Forward<'_>, paged: Paged<'_>, (first, count): (usize, usize), parts: &Tensor) {
        let Forward { heads, bounds, plan, o, lse, .. } = forward;
        self.launch(
            "attention_join",
            [count, heads.kv_heads, plan.decode_rows.div_ceil(WARPS)],
            &[
                tensor("parts", parts),
                tensor("bounds", &bounds.rows),
                rows_of("tiles", &plan.tiles, first, count),
                tensor("lengths", paged.lengths),
                tensor("o", o),
                tensor("lse", lse),
                size(plan.decode_rows),
                size(heads.head_dim),
                shape(heads, bounds, paged.page_tables.cols(), true),
            ],
        );
    }
}

#[track_caller]
fn plan_of(bounds: &Bounds, heads: Heads) -> &Plan {
    let plan: &Plan = bounds.plan();
    assert_eq!(plan.group, heads.heads / heads.kv_heads, "attention: bounds for other heads than {heads:?}");
    plan
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

/// The kernels' sizes and settings.
#[track_caller]
fn shape(heads: Heads, bounds: &Bounds, pages_max: usize, causal: bool) -> Argument<'static> {
    let size = |of| i32::try_from(of).expect("a size of fewer than 2³¹");
    let group = heads.heads / heads.kv_heads;
    // The upper half of row · inverse is row / group as long as rows · group < 2³².
    let rows = bounds.plan::<Plan>().longest * group;
    assert!(rows * group < 1 << 32, "attention: {rows} rows of a segment are too many");
    Argument::by_value(&AttentionShape {
        heads: size(heads.heads),
        kv_heads: size(heads.kv_heads),
        group: size(group),
        group_inverse: if group == 1 { 0 } else { u32::MAX / group as u32 + 1 },
        segments: size(bounds.segments()),
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
            assert!(forward_bytes(head_dim, true).max(backward_keys_bytes(head_dim)) <= 99 * 1024, "{head_dim}");
        }
    }

    #[test]
    fn rows_are_divided_by_the_group_with_its_inverse() {
        for group in 2..=64u64 {
            let inverse = u64::from(u32::MAX / group as u32 + 1);
            let last = (1 << 32) / group - 1;
            for row in (0..10_000).chain(last - 10_000..=last) {
                assert_eq!((row * inverse) >> 32, row / group, "{row} / {group}");
            }
        }
    }
}
