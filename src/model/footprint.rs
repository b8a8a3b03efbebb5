//! How much memory the model's weights, its forward and its backward take, counted from shapes before anything is loaded. It describes
//! [`super::block`], and `tests/it/footprint.rs` holds it against the tensors that a block keeps.

use super::config::Config;
use super::parameters::{Affine, BlockIds, Layout, Spec};
use crate::ops::attention::Heads;
use crate::ops::footprint::Footprint;

/// Elements for each row of one transformer block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockFootprint {
    /// Width of the residual stream.
    pub dim: u128,
    /// That [`super::block::BlockSaved`] keeps. A statistic (`lse`, `rstd`, `mean`) counts as one element, though it is F32 everywhere.
    pub saved: u128,
    /// That backward holds besides, beyond the gradient that it was given.
    pub backward: u128,
}

impl BlockFootprint {
    /// Of the decoder's layers.
    pub fn decoder(config: &Config, layout: &Layout) -> BlockFootprint {
        BlockFootprint::of(layout, &layout.layers[0], config.heads)
    }

    /// Of the vision tower's blocks; a row is a patch. Nothing where there is no tower.
    pub fn vision(config: &Config, layout: &Layout) -> BlockFootprint {
        match config.vision.as_ref().zip(layout.vision.as_ref()) {
            Some((vision, ids)) => BlockFootprint::of(layout, &ids.blocks[0], vision.head_layout()),
            None => BlockFootprint { dim: 0, saved: 0, backward: 0 },
        }
    }

    fn of(layout: &Layout, ids: &BlockIds, heads: Heads) -> BlockFootprint {
        let size = |id, dimension: usize| layout.spec(id).shape[dimension] as u128;
        let (dim, qkv, o) = (size(ids.norm1.weight, 0), size(ids.qkv.weight, 0), size(ids.output.weight, 1));
        let (up, activated) = (size(ids.up.weight, 0), size(ids.down.weight, 1));
        // A residual sum, the normalised rows, and `rstd`; LayerNorm, which has an offset, keeps `mean` too.
        let norm = |ids: Affine| 2 * dim + 1 + u128::from(ids.bias.is_some());
        let lse = heads.heads as u128;
        // The heads as they were, and the `rstd` of each.
        let normed_heads = if ids.qk_norm.is_some() { heads.heads + heads.kv_heads } else { 0 };
        let qk_norm = (normed_heads * (heads.head_dim + 1)) as u128;
        // The gradients of what stands before and behind each norm, of qkv, of attention's output, and of the MLP.
        let backward = 4 * dim + qkv + o + up + activated;
        let saved = norm(ids.norm1) + qkv + qk_norm + o + lse + norm(ids.norm2) + up + activated;
        BlockFootprint { dim, saved, backward }
    }

    /// What a forward that keeps nothing holds: one block's, and what goes into it.
    pub fn forward(&self) -> u128 {
        self.saved + 2 * self.dim
    }

    /// What a forward over `blocks` blocks keeps for backward: all of each, or, where backward computes a block again, the two summands of
    /// its input, and all of one.
    pub fn kept(&self, blocks: usize, recompute: bool) -> u128 {
        match recompute {
            true => blocks as u128 * 2 * self.dim + self.saved,
            false => blocks as u128 * self.saved,
        }
    }
}

/// Patches that the vision tower sees at a time where `tokens` tokens are images': no more than an image of `max_pixels` has.
pub fn tower_patches(config: &Config, tokens: usize, max_pixels: u64) -> u128 {
    let Some(vision) = &config.vision else { return 0 };
    let area = (vision.patch * vision.patch) as u128;
    (tokens as u128 * (vision.merge * vision.merge) as u128).min(u128::from(max_pixels) / area)
}

/// Bytes of a model's weights, which are bf16.
pub fn weights_bytes(layout: &Layout) -> u128 {
    2 * layout.elements() as u128
}

/// Bytes that a device keeps of matrices besides, laid out for products; bf16 too.
pub fn packed_bytes(layout: &Layout, footprint: Footprint) -> u128 {
    let is_packed = |spec: &&Spec| spec.len() <= footprint.packed_elements_max;
    layout.matmul_weights().filter(is_packed).map(|spec| 2 * spec.len() as u128).sum()
}
