//! The model, forward and below it backward, written once over `dyn Backend`. One forward serves prefill, decoding and training; the
//! difference is data ([`Batch`]), and so is that between families ([`families`]).

pub mod batch;
pub mod block;
pub mod compute;
pub mod config;
pub mod families;
pub mod features;
pub mod footprint;
pub mod keys;
pub mod parameters;
pub mod rope;
pub mod spec;
pub mod cos_sin;
pub mod vision;

use std::sync::Arc;

use batch::{Batch, BatchTensors};
use block::{BlockSaved, Tower, block_backward, block_forward, block_forward_paged};
use compute::{Compute, NormSaved, Residual};
use config::Config;
use features::ImageFeatures;
use parameters::{Gradients, Layout, Parameters, Weights};

use crate::ops::attention::Keys;
use crate::ops::embedding::ImageRows;
use crate::ops::{Backend, Dtype, Host, Tensor};

/// The architecture on a backend; weights are passed in.
#[derive(Clone)]
pub struct Model {
    /// Sizes and constants, as config.json gives them.
    pub config: Config,
    /// Names and shapes of the parameters.
    pub layout: Layout,
    /// Where it is computed.
    pub backend: Arc<dyn Backend>,
}

/// What backward needs of one forward.
#[derive(Debug)]
pub struct Activations {
    inputs: BatchTensors,
    layers: Vec<LayerSaved>,
    norm: NormSaved,
}

/// What is kept of a layer.
#[derive(Debug)]
enum LayerSaved {
    /// All that backward needs.
    Block(Box<BlockSaved>),
    /// The layer's input; backward computes the rest again.
    Input(Residual),
}

/// How much a training forward keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// All that backward needs.
    Activations,
    /// Each layer's input only: less memory, one more forward.
    LayerInputs,
    /// Nothing: there is no backward.
    Nothing,
}

impl Model {
    /// The architecture of `config` on `backend`.
    pub fn new(config: Config, backend: Arc<dyn Backend>) -> Model {
        Model { layout: Layout::new(&config), config, backend }
    }

    /// Reads and writes pages; returns the final norm's rows, Activation `[wanted rows, dim]`. One tensor of pages a layer.
    pub fn forward_paged(
        &self,
        weights: &Weights,
        batch: &Batch,
        images: Option<&ImageFeatures>,
        pages: &mut [Tensor],
    ) -> Tensor {
        self.forward_uploaded(weights, &batch.upload(&self.config, &*self.backend), images, pages)
    }

    /// [`Model::forward_paged`] of a batch that is on the backend already.
    pub fn forward_uploaded(
        &self,
        weights: &Weights,
        inputs: &BatchTensors,
        images: Option<&ImageFeatures>,
        pages: &mut [Tensor],
    ) -> Tensor {
        let compute = self.compute(weights);
        let (tower, paging) = (self.tower(&inputs.cos_sin), inputs.paging());
        let mut residual = self.embed(compute, inputs, images);
        for (layer, (ids, pages)) in self.layout.layers.iter().zip(pages).enumerate() {
            residual = block_forward_paged(compute, ids, tower, residual, pages, paging);
            residual = self.add_deep(inputs, images, layer, residual);
        }
        let (y, _) = compute.norm_forward(self.layout.norm, residual, self.config.norm_epsilon);
        self.wanted(inputs, y)
    }

    /// Training's forward over packed sequences, and what backward needs.
    pub fn forward(
        &self,
        weights: &Weights,
        batch: &Batch,
        images: Option<&ImageFeatures>,
        keep: Keep,
    ) -> (Tensor, Activations) {
        let compute = self.compute(weights);
        let inputs = batch.upload(&self.config, compute.backend);
        let tower = self.tower(&inputs.cos_sin);
        let mut residual = self.embed(compute, &inputs, images);
        let mut layers = Vec::with_capacity(self.layout.layers.len());
        for (layer, ids) in self.layout.layers.iter().enumerate() {
            let input = (keep == Keep::LayerInputs).then(|| residual.clone());
            let keys = Keys::Packed(inputs.segments());
            let (next, saved) = block_forward(compute, ids, tower, residual, keys);
            residual = self.add_deep(&inputs, images, layer, next);
            match keep {
                Keep::Activations => layers.push(LayerSaved::Block(Box::new(saved))),
                Keep::LayerInputs => layers.extend(input.map(LayerSaved::Input)),
                Keep::Nothing => {}
            }
        }
        let (y, norm) = compute.norm_forward(self.layout.norm, residual, self.config.norm_epsilon);
        (self.wanted(&inputs, y), Activations { inputs, layers, norm })
    }

    /// `h wᵀ` with the head: F32 `[N, vocab]`.
    pub fn logits(&self, weights: &Weights, h: &Tensor) -> Tensor {
        self.backend.logits(h, self.head(weights))
    }

    /// The head's matrix, Bf16 `[vocab, dim]`.
    pub fn head<'a>(&self, weights: &'a Weights) -> &'a Tensor {
        &weights.values[self.layout.head]
    }

    /// Adds the gradients of all trained parameters below the head, and returns that of `images` if they are given, as they went into the
    /// forward. `dh` is the gradient of what [`Model::forward`] returned.
    pub fn backward(
        &self,
        weights: &Weights,
        gradients: &mut Gradients,
        activations: Activations,
        dh: &Tensor,
        images: Option<&ImageFeatures>,
    ) -> Option<ImageFeatures> {
        let compute = self.compute(weights);
        let backend = compute.backend;
        let Activations { inputs, layers, norm } = activations;
        assert_eq!(layers.len(), self.layout.layers.len(), "backward needs a forward that kept its layers");
        let tower = self.tower(&inputs.cos_sin);
        let spread = inputs.rows.as_ref().map(|rows| backend.gather_rows_backward(dh, rows, norm.h.rows()));
        let dy = spread.as_ref().unwrap_or(dh);
        let mut dresidual = compute.norm_backward(gradients, self.layout.norm, dy, None, &norm);
        let image_index = inputs.image_index.as_ref();
        let zeros = |rows: &Tensor| backend.zeros(rows.shape(), Dtype::Activation);
        let mut deep: Vec<Tensor> = images.map_or(Vec::new(), |images| images.deep.iter().map(zeros).collect());
        for ((layer, ids), saved) in self.layout.layers.iter().enumerate().zip(layers).rev() {
            if let Some(ddeep) = deep.get_mut(layer) {
                backend.embedding_backward(&dresidual, &inputs.ids, image_index, None, Some(ddeep));
            }
            let saved = match saved {
                LayerSaved::Block(saved) => *saved,
                LayerSaved::Input(residual) => {
                    block_forward(compute, ids, tower, residual, Keys::Packed(inputs.segments())).1
                }
            };
            dresidual = block_backward(compute, gradients, ids, tower, &saved, inputs.segments(), dresidual);
        }
        let dtable = gradients[self.layout.embed].as_mut();
        let mut dimages = images.map(|images| ImageFeatures { rows: zeros(&images.rows), deep });
        let drows = dimages.as_mut().map(|dimages| &mut dimages.rows);
        backend.embedding_backward(&dresidual, &inputs.ids, image_index, dtable, drows);
        dimages
    }

    /// Gradients of zero for the parameters that `trained` names.
    pub fn gradients(&self, mut trained: impl FnMut(&parameters::Spec) -> bool) -> Gradients {
        Parameters::from_layout(&self.layout, |spec| trained(spec).then(|| self.backend.zeros(&spec.shape, Dtype::F32)))
    }

    /// Copies host weights in, one slice of bf16 values a parameter, in layout order.
    pub fn upload_weights(&self, values: &Parameters<Vec<half::bf16>>) -> Weights {
        let mut values = values.iter();
        let values = Parameters::from_layout(&self.layout, |spec| {
            let value = values.next().expect("one value a parameter");
            self.backend.upload(Host::Bf16(value), &spec.shape, Dtype::Bf16)
        });
        Weights::new(values)
    }

    fn compute<'a>(&'a self, weights: &'a Weights) -> Compute<'a> {
        Compute { backend: &*self.backend, weights: &weights.values }
    }

    fn tower<'a>(&self, cos_sin: &'a Tensor) -> Tower<'a> {
        Tower { heads: self.config.heads, norm_epsilon: self.config.norm_epsilon, gelu: None, cos_sin }
    }

    fn embed(&self, compute: Compute<'_>, inputs: &BatchTensors, images: Option<&ImageFeatures>) -> Residual {
        let images = images.zip(inputs.image_index.as_ref());
        let images = images.map(|(images, index)| ImageRows { rows: &images.rows, index });
        let x = compute.backend.embedding_forward(&compute.weights[self.layout.embed], &inputs.ids, images);
        Residual { h: Arc::new(x), add: None }
    }

    /// The residual stream behind a layer, with what the images add to it there.
    fn add_deep(
        &self,
        inputs: &BatchTensors,
        images: Option<&ImageFeatures>,
        layer: usize,
        residual: Residual,
    ) -> Residual {
        let deep = images.and_then(|images| images.deep.get(layer));
        let Some((rows, index)) = deep.zip(inputs.image_index.as_ref()) else { return residual };
        let backend = &*self.backend;
        let mut h = backend.duplicate(&residual.h);
        if let Some(add) = &residual.add {
            backend.add(&mut h, add);
        }
        // The embeddings of a table of zeros, and so of any tokens that are no image's, are zero.
        let table = backend.zeros(&[1, self.config.dim], Dtype::Bf16);
        let ids = backend.zeros(inputs.ids.shape(), Dtype::I32);
        let added = backend.embedding_forward(&table, &ids, Some(ImageRows { rows, index }));
        Residual { h: Arc::new(h), add: Some(Arc::new(added)) }
    }

    /// The rows that the batch asks for.
    fn wanted(&self, inputs: &BatchTensors, y: Tensor) -> Tensor {
        match &inputs.rows {
            Some(rows) => self.backend.gather_rows(&y, rows),
            None => y,
        }
    }
}
