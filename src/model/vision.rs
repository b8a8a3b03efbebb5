//! The vision tower: patch embedding, windowed and full attention blocks, patch merger; forward, and below it backward.

use std::sync::Arc;

use super::Model;
use super::block::{BlockSaved, Residual, Tower, block_backward, block_forward};
use super::compute::{Compute, NormSaved};
use super::parameters::{Gradients, Weights};
use super::rotation::vision_rotation;
use crate::ops::attention::Keys;
use crate::ops::gelu::GeluForm;
use crate::ops::patch_embed::PixelScale;
use crate::ops::{Backend, Dtype, Host, Tensor};
use crate::prompt::positions::{Grid, WindowOrder, image_bounds, patch_positions, window_order};

/// Epsilon of the tower's norms, in both families.
const NORM_EPSILON: f32 = 1e-6;

/// Images to encode together: patches in patch order, image after image.
#[derive(Clone, Debug)]
pub struct ImageBatch<'a> {
    /// Each image's patches, `[grid.patches(), 3 · patch²]`, and its grid.
    pub images: Vec<(&'a [u8], Grid)>,
    /// Per-channel normalisation of the checkpoint's processor.
    pub scale: PixelScale,
}

/// What backward needs of one pass of the tower.
#[derive(Debug)]
pub struct VisionSaved {
    inputs: Inputs,
    blocks: Vec<BlockSaved>,
    merger: MergerSaved,
}

/// Uploaded pixels and indices, the patches in the order in which the blocks see them.
#[derive(Debug)]
struct Inputs {
    pixels: Tensor,
    scale: PixelScale,
    rotation: Tensor,
    full_bounds: Tensor,
    window_bounds: Tensor,
    /// Where each merge unit of the patch order stands among the blocks' outputs.
    unit_index: Tensor,
}

#[derive(Debug)]
struct MergerSaved {
    norm: NormSaved,
    units: Tensor,
    hidden: Tensor,
    activated: Tensor,
}

impl Model {
    /// Rows of the language model for each image token: Activation `[Σ grid.tokens, dim]`, image after image.
    pub fn vision_forward(&self, weights: &Weights, images: &ImageBatch<'_>) -> Tensor {
        self.vision_forward_saving(weights, images).0
    }

    /// The same, with what [`Model::vision_backward`] needs.
    pub fn vision_forward_saving(&self, weights: &Weights, images: &ImageBatch<'_>) -> (Tensor, VisionSaved) {
        let compute = self.compute(weights);
        let backend = compute.backend;
        let inputs = self.vision_inputs(images);
        let tower = self.vision_tower(&inputs.rotation);
        let embedded =
            backend.patch_embed_forward(&inputs.pixels, &inputs.scale, &compute.weights[self.layout.patch_embed]);
        let mut residual = Residual { h: Arc::new(embedded), add: None };
        let mut blocks = Vec::with_capacity(self.layout.blocks.len());
        for (i, ids) in self.layout.blocks.iter().enumerate() {
            let keys = Keys::Packed { bounds: self.vision_bounds(&inputs, i), causal: false };
            let (next, saved) = block_forward(compute, ids, tower, residual, keys);
            residual = next;
            blocks.push(saved);
        }
        let (units, merger) = self.merger_forward(compute, residual);
        let rows = backend.gather_rows(&units, &inputs.unit_index);
        (rows, VisionSaved { inputs, blocks, merger })
    }

    fn merger_forward(&self, compute: Compute<'_>, residual: Residual) -> (Tensor, MergerSaved) {
        let [norm, first, second] = self.layout.merger;
        let (y, norm) = compute.norm_forward(norm, residual, NORM_EPSILON);
        let patches = self.config.vision.merge * self.config.vision.merge;
        let (rows, dim) = (y.rows(), y.cols());
        let units = y.reshape(&[rows / patches, patches * dim]);
        let hidden = compute.linear_forward(&units, first);
        let activated = compute.backend.gelu_forward(&hidden, GeluForm::Erf);
        let output = compute.linear_forward(&activated, second);
        (output, MergerSaved { norm, units, hidden, activated })
    }

    /// Adds the gradients of the tower's trained parameters; `drows` as [`Model::vision_forward`] returned.
    pub fn vision_backward(&self, weights: &Weights, gradients: &mut Gradients, saved: &VisionSaved, drows: &Tensor) {
        let compute = self.compute(weights);
        let inputs = &saved.inputs;
        let tower = self.vision_tower(&inputs.rotation);
        let dunits = compute.backend.gather_rows_backward(drows, &inputs.unit_index, drows.rows());
        let mut dresidual = self.merger_backward(compute, gradients, &saved.merger, &dunits);
        if self.vision_is_frozen(gradients) {
            return;
        }
        for (i, ids) in self.layout.blocks.iter().enumerate().rev() {
            let bounds = (self.vision_bounds(inputs, i), false);
            dresidual = block_backward(compute, gradients, ids, tower, &saved.blocks[i], bounds, dresidual);
        }
        if let Some(dw) = &mut gradients[self.layout.patch_embed] {
            compute.backend.patch_embed_backward(&dresidual, &inputs.pixels, &inputs.scale, dw);
        }
    }

    fn merger_backward(
        &self,
        compute: Compute<'_>,
        gradients: &mut Gradients,
        saved: &MergerSaved,
        doutput: &Tensor,
    ) -> Tensor {
        let [norm, first, second] = self.layout.merger;
        let dactivated = compute.linear_backward(gradients, doutput, &saved.activated, second);
        let dhidden = compute.backend.gelu_backward(&dactivated, &saved.hidden, GeluForm::Erf);
        let dunits = compute.linear_backward(gradients, &dhidden, &saved.units, first);
        let dy = dunits.reshape(saved.norm.h.shape());
        compute.norm_backward(gradients, norm, &dy, None, &saved.norm)
    }

    fn vision_is_frozen(&self, gradients: &Gradients) -> bool {
        gradients[self.layout.patch_embed].is_none()
    }

    fn vision_tower<'a>(&self, rotation: &'a Tensor) -> Tower<'a> {
        Tower {
            heads: self.config.vision.head_layout(),
            norm_epsilon: NORM_EPSILON,
            gelu: self.config.family.vision_gelu(),
            rotation,
        }
    }

    fn vision_bounds<'a>(&self, inputs: &'a Inputs, block: usize) -> &'a Tensor {
        match &self.config.vision.windows {
            Some((_, full)) if !full.contains(&block) => &inputs.window_bounds,
            _ => &inputs.full_bounds,
        }
    }

    /// Brings patches into window order, unit by unit, and tabulates positions and bounds.
    fn vision_inputs(&self, batch: &ImageBatch<'_>) -> Inputs {
        let config = &self.config.vision;
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
        let head_dim = config.head_layout().head_dim;
        let rotation = vision_rotation(head_dim, &positions);
        Inputs {
            pixels: backend.upload(Host::U8(&pixels), &[patches, values], Dtype::U8),
            scale: batch.scale,
            rotation: backend.upload(Host::F32(&rotation), &[patches, head_dim], Dtype::F32),
            full_bounds: backend.indices(&full_bounds),
            window_bounds: backend.indices(&window_bounds),
            unit_index: backend.indices(&unit_index),
        }
    }
}
