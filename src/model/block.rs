//! One pre-norm transformer block, forward and backward: decoder layers and vision blocks are the same code over other parameters.
//!
//! The residual stream travels as two tensors, `h` and what is yet to be added, so that every norm can add before it normalises.

use std::sync::Arc;

use super::compute::{Compute, NormSaved, Residual};
use super::parameters::{BlockIds, Gradients};
use crate::ops::Tensor;
use crate::ops::attention::{Bounds, Heads, Keys, Packed};
use crate::ops::gelu::GeluForm;
use crate::ops::qk_norm::QkNormSaved;
use crate::ops::rope::PageWrite;

/// What is the same for all blocks of a tower.
#[derive(Clone, Copy, Debug)]
pub struct Tower<'a> {
    /// Heads of a qkv row: their numbers and width.
    pub heads: Heads,
    /// Epsilon of the norms.
    pub norm_epsilon: f32,
    /// The MLP's activation: GELU, or SwiGLU where absent.
    pub gelu: Option<GeluForm>,
    /// F32 `[T, head_dim]`: cosines, then sines.
    pub cos_sin: &'a Tensor,
}

/// What backward needs of one block.
#[derive(Debug)]
pub struct BlockSaved {
    norm1: NormSaved,
    y1: Tensor,
    qk_norm: Option<QkNormSaved>,
    qkv: Tensor,
    o: Tensor,
    lse: Tensor,
    norm2: NormSaved,
    y2: Tensor,
    up: Tensor,
    activated: Tensor,
}

/// `norm1, qkv, qk_norm, rope, attention, output, norm2, up, activation, down`, over packed keys.
pub fn block_forward(
    compute: Compute<'_>,
    ids: &BlockIds,
    tower: Tower<'_>,
    residual: Residual,
    keys: Keys<'_>,
) -> (Residual, BlockSaved) {
    let backend = compute.backend;
    let normed1 = compute.norm_forward(ids.norm1, residual, tower.norm_epsilon);
    let (mut qkv, qk_norm) = project(compute, ids, tower, &normed1.0, true);
    backend.rope_forward(&mut qkv, tower.heads, tower.cos_sin, None);
    let attended = backend.attention_forward(&qkv, tower.heads, keys);
    finish(compute, ids, tower, normed1, (qkv, qk_norm), attended)
}

/// The same with keys and values in pages: this call's own go in first.
pub fn block_forward_paged(
    compute: Compute<'_>,
    ids: &BlockIds,
    tower: Tower<'_>,
    residual: Residual,
    pages: &mut Tensor,
    paging: Paging<'_>,
) -> Residual {
    let backend = compute.backend;
    let normed1 = compute.norm_forward(ids.norm1, residual, tower.norm_epsilon);
    let (mut qkv, qk_norm) = project(compute, ids, tower, &normed1.0, false);
    let write = PageWrite { pages: &mut *pages, slots: paging.slots };
    backend.rope_forward(&mut qkv, tower.heads, tower.cos_sin, Some(write));
    let Paging { bounds, page_tables, lengths, .. } = paging;
    let attended = backend.attention_forward(&qkv, tower.heads, Keys::Paged { pages, bounds, page_tables, lengths });
    finish(compute, ids, tower, normed1, (qkv, qk_norm), attended).0
}

/// Uploaded indices of a paged batch (see [`Keys::Paged`] and [`PageWrite`]).
#[derive(Clone, Copy, Debug)]
pub struct Paging<'a> {
    /// I32 `[T]`: the page slot that each token's keys and values go to.
    pub slots: &'a Tensor,
    /// A segment for each sequence.
    pub bounds: &'a Bounds,
    /// I32 `[sequences, pages_max]`.
    pub page_tables: &'a Tensor,
    /// I32 `[sequences]`: tokens of each so far, those of this batch included.
    pub lengths: &'a Tensor,
}

/// Queries, keys and values as they are before the rotation; what the backward of their norm needs if `is_kept`.
fn project(
    compute: Compute<'_>,
    ids: &BlockIds,
    tower: Tower<'_>,
    y1: &Tensor,
    is_kept: bool,
) -> (Tensor, Option<QkNormSaved>) {
    let mut qkv = compute.linear_forward(y1, ids.qkv);
    let norm = |ids| compute.qk_norm_forward(&mut qkv, tower.heads, ids, tower.norm_epsilon, is_kept);
    let saved = ids.qk_norm.and_then(norm);
    (qkv, saved)
}

/// From attention's output to the end of the block.
fn finish(
    compute: Compute<'_>,
    ids: &BlockIds,
    tower: Tower<'_>,
    (y1, norm1): (Tensor, NormSaved),
    (qkv, qk_norm): (Tensor, Option<QkNormSaved>),
    (o, lse): (Tensor, Tensor),
) -> (Residual, BlockSaved) {
    let backend = compute.backend;
    let attended = Arc::new(compute.linear_forward(&o, ids.output));
    let residual = Residual { h: norm1.h.clone(), add: Some(attended) };
    let (y2, norm2) = compute.norm_forward(ids.norm2, residual, tower.norm_epsilon);
    let up = compute.linear_forward(&y2, ids.up);
    let activated = match tower.gelu {
        Some(form) => backend.gelu_forward(&up, form),
        None => backend.swiglu_forward(&up),
    };
    let down = Arc::new(compute.linear_forward(&activated, ids.down));
    let residual = Residual { h: norm2.h.clone(), add: Some(down) };
    (residual, BlockSaved { norm1, y1, qk_norm, qkv, o, lse, norm2, y2, up, activated })
}

/// Takes the gradient of the residual sum behind the block to that before it; packed keys.
pub fn block_backward(
    compute: Compute<'_>,
    gradients: &mut Gradients,
    ids: &BlockIds,
    tower: Tower<'_>,
    saved: &BlockSaved,
    segments: Packed<'_>,
    dresidual: Tensor,
) -> Tensor {
    let backend = compute.backend;
    let dactivated = compute.linear_backward(gradients, &dresidual, &saved.activated, ids.down);
    let dup = match tower.gelu {
        Some(form) => backend.gelu_backward(&dactivated, &saved.up, form),
        None => backend.swiglu_backward(&dactivated, &saved.up),
    };
    let dy2 = compute.linear_backward(gradients, &dup, &saved.y2, ids.up);
    let dresidual = compute.norm_backward(gradients, ids.norm2, &dy2, Some(&dresidual), &saved.norm2);
    let d_o = compute.linear_backward(gradients, &dresidual, &saved.o, ids.output);
    let mut dqkv = backend.attention_backward(&d_o, &saved.qkv, &saved.o, &saved.lse, tower.heads, segments);
    backend.rope_backward(&mut dqkv, tower.heads, tower.cos_sin);
    if let Some((ids, saved)) = ids.qk_norm.zip(saved.qk_norm.as_ref()) {
        compute.qk_norm_backward(gradients, &mut dqkv, tower.heads, ids, saved);
    }
    let dy1 = compute.linear_backward(gradients, &dqkv, &saved.y1, ids.qkv);
    compute.norm_backward(gradients, ids.norm1, &dy1, Some(&dresidual), &saved.norm1)
}
