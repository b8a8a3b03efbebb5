//! The vision tower: patch embedding, windowed and full attention blocks, patch merger; forward, and below it backward.

use std::sync::Arc;

use super::Model;
use super::block::{BlockSaved, Tower, block_backward, block_forward};
use super::compute::{NormSaved, Residual};
use super::config::VisionConfig;
use super::cos_sin::vision_cos_sin;
use super::features::ImageFeatures;
use super::parameters::{Gradients, VisionIds, Weights};
use crate::ops::attention::{Bounds, Keys, Packed};
use crate::ops::gelu::GeluForm;
use crate::ops::patch_embed::PixelScale;
use crate::ops::{Backend, Dtype, Host, Tensor};
use crate::prompt::positions::{Grid, WindowOrder, image_bounds, patch_positions, window_order};

/// Epsilon of the tower's norms, in all families.
const NORM_EPSILON: f32 = 1e-6;

/// Images to encode together: patches in patch order, image after image.
#[derive(Clone, Debug)]
pub struct ImageBatch<'a> {
    /// Each image's patches, `[grid.patches(), 3 · patch²]`, and its grid.
    pub images: Vec<(&'a [u8], Grid)>,
    /// Per-channel normalisation of the checkpoint's processor.
    pub scale: PixelScale,
}

/// What backward needs of one pass of the tower's blocks.
#[derive(Debug)]
pub struct TowerSaved {
    inputs: Inputs,
    blocks: Vec<BlockSaved>,
}

/// Uploaded pixels and indices, the patches in the order in which the blocks see them.
#[derive(Debug)]
struct Inputs {
    pixels: Tensor,
    scale: PixelScale,
    cos_sin: Tensor,
    full_bounds: Bounds,
    window_bounds: Bounds,
    /// Where each merge unit of the patch order stands among the blocks' outputs.
    unit_index: Tensor,
}

/// What backward needs of one pass of the merger.
#[derive(Debug)]
pub struct MergerSaved {
    norm: NormSaved,
    unmerged_features: Tensor,
    hidden: Tensor,
    activated: Tensor,
}

impl Model {
    /// Patch embedding and blocks: Activation `[Σ grid.tokens, merge² · width]`, a row for each merge unit, image after image. It
    /// stays the same for as long as the tower is frozen. What backward needs is kept where `is_trained`.
    pub fn tower_forward(
        &self,
        weights: &Weights,
        images: &ImageBatch<'_>,
        is_trained: bool,
    ) -> (Tensor, Option<TowerSaved>) {
        let compute = self.compute(weights);
        let backend = compute.backend;
        let (config, ids) = self.vision();
        let inputs = self.vision_inputs(images);
        let tower = vision_tower(config, &inputs.cos_sin);
        let embedded = backend.patch_embed_forward(&inputs.pixels, &inputs.scale, &compute.weights[ids.patch_embed]);
        let mut residual = Residual { h: Arc::new(embedded), add: None };
        let mut blocks = Vec::with_capacity(ids.blocks.len());
        for (i, ids) in ids.blocks.iter().enumerate() {
            let keys = Keys::Packed(vision_segments(config, &inputs, i));
            let (next, saved) = block_forward(compute, ids, tower, residual, keys);
            residual = next;
            blocks.extend(is_trained.then_some(saved));
        }
        let mut sum = backend.duplicate(&residual.h);
        if let Some(add) = &residual.add {
            backend.add(&mut sum, add);
        }
        let patches = config.merge * config.merge;
        let shape = [sum.rows() / patches, patches * sum.cols()];
        let unmerged_features = backend.gather_rows(&sum.reshape(&shape), &inputs.unit_index);
        (unmerged_features, is_trained.then_some(TowerSaved { inputs, blocks }))
    }

    /// What the language model gets of each image token, from the tower's unmerged features.
    pub fn merger_forward(&self, weights: &Weights, unmerged_features: &Tensor) -> (ImageFeatures, MergerSaved) {
        let compute = self.compute(weights);
        let (config, ids) = self.vision();
        let [norm, first, second] = ids.merger;
        let width = config.dim;
        let patches = compute.backend.duplicate(unmerged_features).reshape(&[unmerged_features.len() / width, width]);
        let residual = Residual { h: Arc::new(patches), add: None };
        let (y, norm) = compute.norm_forward(norm, residual, NORM_EPSILON);
        let unmerged_features = y.reshape(unmerged_features.shape());
        let hidden = compute.linear_forward(&unmerged_features, first);
        let activated = compute.backend.gelu_forward(&hidden, GeluForm::Erf);
        let rows = compute.linear_forward(&activated, second);
        let features = ImageFeatures { rows, deep: Vec::new() };
        (features, MergerSaved { norm, unmerged_features, hidden, activated })
    }

    /// Adds the gradients of the merger's trained parameters; returns that of its unmerged features.
    pub fn merger_backward(
        &self,
        weights: &Weights,
        gradients: &mut Gradients,
        saved: &MergerSaved,
        dfeatures: &ImageFeatures,
    ) -> Tensor {
        let compute = self.compute(weights);
        let [norm, first, second] = self.vision().1.merger;
        let dactivated = compute.linear_backward(gradients, &dfeatures.rows, &saved.activated, second);
        let dhidden = compute.backend.gelu_backward(&dactivated, &saved.hidden, GeluForm::Erf);
        let dunmerged = compute.linear_backward(gradients, &dhidden, &saved.unmerged_features, first);
        let dy = dunmerged.reshape(saved.norm.h.shape());
        let dpatches = compute.norm_backward(gradients, norm, &dy, None, &saved.norm);
        dpatches.reshape(saved.unmerged_features.shape())
    }

    /// Adds the gradients of the tower's trained parameters.
    pub fn tower_backward(&self, weights: &Weights, gradients: &mut Gradients, saved: &TowerSaved, dfeatures: &Tensor) {
        let compute = self.compute(weights);
        let (config, ids) = self.vision();
        let inputs = &saved.inputs;
        let tower = vision_tower(config, &inputs.cos_sin);
        let spread = compute.backend.gather_rows_backward(dfeatures, &inputs.unit_index, dfeatures.rows());
        let mut dresidual = spread.reshape(&[inputs.pixels.rows(), config.dim]);
        for (i, ids) in ids.blocks.iter().enumerate().rev() {
            let segments = vision_segments(config, inputs, i);
            dresidual = block_backward(compute, gradients, ids, tower, &saved.blocks[i], segments, dresidual);
        }
        if let Some(dw) = &mut gradients[ids.patch_embed] {
            compute.backend.patch_embed_backward(&dresidual, &inputs.pixels, &inputs.scale, dw);
        }
    }

    /// Sizes and parameters of the tower, which a model that is shown images has.
    fn vision(&self) -> (&VisionConfig, &VisionIds) {
        self.config.vision.as_ref().zip(self.layout.vision.as_ref()).expect("a model with a vision tower")
    }

    /// Brings patches into window order, unit by unit, and tabulates positions and bounds.
    fn vision_inputs(&self, batch: &ImageBatch<'_>) -> Inputs {
        let config = self.vision().0;
        let (values, unit) = (config.patch_values(), config.merge * config.merge);
        let (mut pixels, mut positions, mut unit_index) = (Vec::new(), Vec::new(), Vec::new());
        let (mut window_bounds, mut patches) = (vec![0], 0);
        for &(image, grid) in &batch.images {
            assert_eq!(image.len(), grid.patches() * values, "patches of an image of grid {grid:?}");
            let windows = match config.windows {
                Some((side, _)) => window_order(grid, config.merge, config.patch, side),
                None => WindowOrder {
                    order: (0..grid.tokens(config.merge) as u32).collect(),
                    bounds: vec![0, grid.patches() as u32],
                },
            };
            let image_positions = patch_positions(grid, config.merge);
            let mut place = vec![0; windows.order.len()];
            for (i, &from) in windows.order.iter().enumerate() {
                let from = from as usize;
                place[from] = (patches / unit + i) as i32;
                pixels.extend_from_slice(&image[from * unit * values..(from + 1) * unit * values]);
                positions.extend_from_slice(&image_positions[from * unit..(from + 1) * unit]);
            }
            unit_index.extend(place);
            window_bounds.extend(windows.bounds[1..].iter().map(|&b| patches as i32 + b as i32));
            patches += grid.patches();
        }
        let grids: Vec<Grid> = batch.images.iter().map(|i| i.1).collect();
        let full_bounds: Vec<i32> = image_bounds(&grids).into_iter().map(|b| b as i32).collect();
        let backend: &dyn Backend = &*self.backend;
        let heads = config.head_layout();
        let cos_sin = vision_cos_sin(heads.head_dim, config.rope_theta, &positions);
        Inputs {
            pixels: backend.upload(Host::U8(&pixels), &[patches, values], Dtype::U8),
            scale: batch.scale,
            cos_sin: backend.upload(Host::F32(&cos_sin), &[patches, heads.head_dim], Dtype::F32),
            full_bounds: backend.attention_bounds(&full_bounds, heads),
            window_bounds: backend.attention_bounds(&window_bounds, heads),
            unit_index: backend.indices(&unit_index),
        }
    }
}

fn vision_tower<'a>(config: &VisionConfig, cos_sin: &'a Tensor) -> Tower<'a> {
    Tower { heads: config.head_layout(), norm_epsilon: NORM_EPSILON, gelu: config.gelu, cos_sin }
}

fn vision_segments<'a>(config: &VisionConfig, inputs: &'a Inputs, block: usize) -> Packed<'a> {
    let bounds = match &config.windows {
        Some((_, full)) if !full.contains(&block) => &inputs.window_bounds,
        _ => &inputs.full_bounds,
    };
    Packed { bounds, prefixes: None, causal: false }
}
