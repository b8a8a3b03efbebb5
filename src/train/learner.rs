//! The only owner of the weights: lends them for generation, takes them for an update.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::debug_span;

use super::flops::training_flops;
use super::sample::Pack;
use crate::checkpoint::{CheckpointError, resume};
use crate::model::features::ImageFeatures;
use crate::model::parameters::{Gradients, Parameters, Part, Role, Weights};
use crate::model::vision::{ImageBatch, MergerSaved, TowerSaved};
use crate::model::{Keep, Model};
use crate::ops::adamw::{AdamwParameter, AdamwStep, Moment};
use crate::ops::patch_embed::PixelScale;
use crate::ops::token_logprob::EntropyGradient;
use crate::ops::{Dtype, Host, Tensor};
use crate::recipe::LogprobKind;
use crate::recipe::optimizer::OptimizerSettings;

/// Weights, gradients and the optimizer's state.
pub struct Learner {
    model: Model,
    weights: Weights,
    /// From the first [`Learner::accumulate`] to the update: in between there is room for other things.
    gradients: Option<Gradients>,
    moments: Parameters<Option<resume::Moments>>,
    updates: u64,
    /// Computed so far by [`Learner::accumulate`].
    flops: f64,
    /// That updates took so far, once the gradient was there.
    optimizer_time: Duration,
    settings: LearnerSettings,
}

/// What is learned and how.
#[derive(Clone, PartialEq, Debug)]
pub struct LearnerSettings {
    /// Settings of AdamW and its learning rate.
    pub optimizer: OptimizerSettings,
    /// The vision tower keeps its weights.
    pub freeze_vision_tower: bool,
    /// The patch merger keeps its weights.
    pub freeze_merger: bool,
    /// Keep each layer's input only and compute the rest again in backward.
    pub activation_recompute: bool,
    /// Per-channel normalisation of pixels.
    pub pixel_scale: PixelScale,
}

impl LearnerSettings {
    /// Whether the parameters of a part change.
    pub fn is_trained(&self, part: Part) -> bool {
        match part {
            Part::Language => true,
            Part::Vision => !self.freeze_vision_tower,
            Part::Merger => !self.freeze_merger,
        }
    }
}

/// Log-probabilities of a pack's learned tokens, each `[targets]`.
#[derive(Clone, PartialEq, Debug)]
pub struct PackLogprobs {
    /// At temperature 1.
    pub logprob: Vec<f32>,
    /// At the given temperatures.
    pub logprob_at_temperature: Vec<f32>,
    /// Entropy of the full distribution in nats.
    pub entropy: Vec<f32>,
}

impl PackLogprobs {
    /// The log-probabilities of one kind.
    pub fn of(&self, kind: LogprobKind) -> &[f32] {
        match kind {
            LogprobKind::Raw => &self.logprob,
            LogprobKind::Temperature => &self.logprob_at_temperature,
        }
    }
}

/// Derivatives of a loss by what [`PackLogprobs`] has, each `[targets]`.
#[derive(Clone, PartialEq, Debug)]
pub struct PackDerivatives {
    /// By the log-probabilities of the loss's kind.
    pub dlogprob: Vec<f32>,
    /// By the entropies; `None` where the loss has none.
    pub dentropy: Option<Vec<f32>>,
}

impl From<Vec<f32>> for PackDerivatives {
    fn from(dlogprob: Vec<f32>) -> PackDerivatives {
        PackDerivatives { dlogprob, dentropy: None }
    }
}

/// Outcome of [`Learner::update`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Update {
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// False where the gradient was not finite: weights and moments are as before.
    pub applied: bool,
}

/// An image pass and what its backward needs.
struct ImagePass {
    features: ImageFeatures,
    merger: MergerSaved,
    tower: Option<TowerSaved>,
}

impl Learner {
    /// Takes the weights.
    pub fn new(model: Model, weights: Weights, settings: LearnerSettings) -> Learner {
        let moments = Parameters::from_layout(&model.layout, |spec| {
            let zeros = if settings.optimizer.optim.is_8bit(spec.role) { Moment::zeros_8bit } else { Moment::zeros };
            settings.is_trained(spec.part).then(|| resume::Moments {
                remainder: model.backend.zeros(&spec.shape, Dtype::I16),
                m: zeros(&*model.backend, &spec.shape),
                v: zeros(&*model.backend, &spec.shape),
            })
        });
        Learner {
            model,
            weights,
            gradients: None,
            moments,
            updates: 0,
            flops: 0.0,
            optimizer_time: Duration::ZERO,
            settings,
        }
    }

    /// The architecture, on the backend that it learns on.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The weights, to generate with.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What is learned and how.
    pub fn settings(&self) -> &LearnerSettings {
        &self.settings
    }

    /// Updates done so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Floating-point operations of all forwards and backwards so far, as [`training_flops`] counts them.
    pub fn flops(&self) -> f64 {
        self.flops
    }

    /// Time that the optimizer took in all updates so far, from when the norm of a gradient was known.
    pub fn optimizer_time(&self) -> Duration {
        self.optimizer_time
    }

    /// Gradients added up since the last update, if any were.
    pub fn gradients(&self) -> Option<&Gradients> {
        self.gradients.as_ref()
    }

    /// What the optimizer keeps.
    pub fn moments(&self) -> &Parameters<Option<resume::Moments>> {
        &self.moments
    }

    /// Forward, loss, backward: adds to the gradients.
    ///
    /// `temperatures` has one value a target, each above 0. `loss` gets the targets' log-probabilities and returns, for each, the
    /// derivative of the loss by its log-probability of `kind`, and perhaps by its entropy.
    pub fn accumulate<D: Into<PackDerivatives>>(
        &mut self,
        pack: &Pack,
        temperatures: &[f32],
        kind: LogprobKind,
        loss: impl FnOnce(&PackLogprobs) -> D,
    ) {
        let _span = debug_span!("accumulate", tokens = pack.batch.tokens()).entered();
        let keep = if self.settings.activation_recompute { Keep::LayerInputs } else { Keep::Activations };
        let (model, weights) = (&self.model, &self.weights);
        self.flops += training_flops(model, &pack.batch);
        let backend = &*model.backend;
        let settings = &self.settings;
        let gradients = self.gradients.get_or_insert_with(|| zeros(model, settings));
        let images = image_pass(model, weights, pack, settings);
        let (h, activations) = model.forward(weights, &pack.batch, images.as_ref().map(|i| &i.features), keep);
        let head = model.head(weights);
        let targets: Vec<i32> = pack.targets.iter().map(|&t| t as i32).collect();
        let targets = backend.indices(&targets);
        let upload = |values: &[f32]| backend.upload(Host::F32(values), &[values.len()], Dtype::F32);
        let sampled_at = upload(temperatures);
        let excluded = model.config.placeholders();
        let output = backend.token_logprob_forward(&h, head, &targets, &sampled_at, &excluded);
        let logprobs = PackLogprobs {
            logprob: backend.to_f32(&output.logprob),
            logprob_at_temperature: backend.to_f32(&output.logprob_at_temperature),
            entropy: backend.to_f32(&output.entropy),
        };
        let PackDerivatives { dlogprob, dentropy } = loss(&logprobs).into();
        let (dlogprob, dentropy) = (upload(&dlogprob), dentropy.map(|dentropy| upload(&dentropy)));
        let (temperatures, lse, excluded) = match kind {
            LogprobKind::Raw => (upload(&vec![1.0; temperatures.len()]), &output.lse_raw, Vec::new()),
            LogprobKind::Temperature => (sampled_at, &output.lse_at_temperature, excluded),
        };
        let (entropy, lse_raw) = (&output.entropy, &output.lse_raw);
        let of_entropy = dentropy.as_ref().map(|dentropy| EntropyGradient { dentropy, entropy, lse_raw });
        let dhead = gradients[model.layout.head].as_mut();
        let dh = backend.token_logprob_backward(
            &dlogprob,
            &h,
            head,
            &targets,
            &temperatures,
            lse,
            &excluded,
            of_entropy,
            dhead,
        );
        let wants_images = !settings.freeze_merger || !settings.freeze_vision_tower;
        let features = images.as_ref().filter(|_| wants_images).map(|i| &i.features);
        let dfeatures = model.backward(weights, gradients, activations, &dh, features);
        if let (Some(dfeatures), Some(images)) = (dfeatures, images) {
            let dunmerged = model.merger_backward(weights, gradients, &images.merger, &dfeatures);
            if let Some(tower) = images.tower {
                model.tower_backward(weights, gradients, &tower, &dunmerged);
            }
        }
    }

    /// Log-probabilities of a pack's targets with nothing kept.
    pub fn logprobs(&self, pack: &Pack, temperatures: &[f32]) -> PackLogprobs {
        logprobs(&self.model, &self.weights, pack, temperatures, &self.settings)
    }

    /// Clips, steps, and lets the gradients go; a gradient that is not finite changes nothing else.
    pub fn update(&mut self, learning_rate: f64) -> Update {
        let _span = debug_span!("update").entered();
        let gradients = self.gradients.take().unwrap_or_else(|| zeros(&self.model, &self.settings));
        let trained: Vec<&Tensor> = gradients.iter().flatten().collect();
        let grad_norm = self.model.backend.sum_of_squares(&trained).sqrt();
        let began = Instant::now();
        if grad_norm.is_finite() {
            self.updates += 1;
            self.step(&gradients, learning_rate, grad_norm);
        }
        drop(gradients);
        self.model.backend.synchronise();
        self.optimizer_time += began.elapsed();
        self.model.backend.trim();
        Update { grad_norm, applied: grad_norm.is_finite() }
    }

    fn step(&mut self, gradients: &Gradients, learning_rate: f64, grad_norm: f64) {
        let optimizer = &self.settings.optimizer;
        let clip = match optimizer.max_grad_norm {
            max if max > 0.0 && grad_norm > max => max / grad_norm,
            _ => 1.0,
        };
        let step = AdamwStep {
            learning_rate: learning_rate as f32,
            beta1: optimizer.adam_beta1,
            beta2: optimizer.adam_beta2,
            epsilon: optimizer.adam_epsilon,
            step: self.updates,
            gradient_scale: clip as f32,
        };
        let values = self.weights.values.iter_mut().zip(gradients.iter()).zip(self.moments.iter_mut());
        let parameters = self.model.layout.specs.iter().zip(values).filter_map(|(spec, ((w, dw), moments))| {
            let resume::Moments { remainder, m, v } = moments.as_mut()?;
            let weight_decay = if spec.role == Role::Matrix { optimizer.weight_decay } else { 0.0 };
            Some(AdamwParameter { w, remainder, m, v, dw: dw.as_ref()?, weight_decay })
        });
        self.model.backend.adamw(&mut parameters.collect::<Vec<_>>(), &step);
        self.weights.version += 1;
    }

    /// Writes the optimizer's state into a checkpoint folder.
    pub fn save_moments(&self, dir: &Path) -> Result<(), CheckpointError> {
        resume::save_moments(&self.model, &self.moments, dir)
    }

    /// Takes up the state that [`Learner::save_moments`] wrote after `updates` updates.
    pub fn load_moments(&mut self, dir: &Path, updates: u64) -> Result<(), CheckpointError> {
        resume::load_moments(&self.model, &mut self.moments, dir)?;
        self.updates = updates;
        Ok(())
    }
}

fn zeros(model: &Model, settings: &LearnerSettings) -> Gradients {
    model.gradients(|spec| settings.is_trained(spec.part))
}

/// Log-probabilities of a pack's targets under any weights (a frozen reference's, say).
pub fn logprobs(
    model: &Model,
    weights: &Weights,
    pack: &Pack,
    temperatures: &[f32],
    settings: &LearnerSettings,
) -> PackLogprobs {
    let backend = &*model.backend;
    let images = image_pass(model, weights, pack, settings);
    let (h, _) = model.forward(weights, &pack.batch, images.as_ref().map(|i| &i.features), Keep::Nothing);
    let targets: Vec<i32> = pack.targets.iter().map(|&t| t as i32).collect();
    let temperatures = backend.upload(Host::F32(temperatures), &[temperatures.len()], Dtype::F32);
    let (targets, excluded) = (backend.indices(&targets), model.config.placeholders());
    let output = backend.token_logprob_forward(&h, model.head(weights), &targets, &temperatures, &excluded);
    PackLogprobs {
        logprob: backend.to_f32(&output.logprob),
        logprob_at_temperature: backend.to_f32(&output.logprob_at_temperature),
        entropy: backend.to_f32(&output.entropy),
    }
}

/// The features of a pack's images for the language model. A frozen tower's unmerged features are taken as they are where all are known.
fn image_pass(model: &Model, weights: &Weights, pack: &Pack, settings: &LearnerSettings) -> Option<ImagePass> {
    if pack.images.is_empty() {
        return None;
    }
    let known: Option<Vec<&Tensor>> = pack.images.iter().map(|image| image.unmerged_features.as_deref()).collect();
    let (unmerged_features, tower) = match known.filter(|_| settings.freeze_vision_tower) {
        Some(unmerged_features) => (model.backend.concat_rows(&unmerged_features), None),
        None => {
            let images = pack.images.iter().map(|i| (i.prepared.patches.as_slice(), i.prepared.grid)).collect();
            let images = ImageBatch { images, scale: settings.pixel_scale };
            model.tower_forward(weights, &images, !settings.freeze_vision_tower)
        }
    };
    let (features, merger) = model.merger_forward(weights, &unmerged_features);
    Some(ImagePass { features, merger, tower })
}
