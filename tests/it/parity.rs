//! The whole model against what transformers computes with the same small checkpoints: positions, log-probs, gradients of every
//! tensor, ten AdamW losses. What the golden files hold, and how they were made: `tests/golden/model/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use serde::Deserialize;
use thyme_engine::checkpoint::{self, Checkpoint, resume};
use thyme_engine::cpu::Cpu;
use thyme_engine::model::batch::Batch;
use thyme_engine::model::config::Config;
use thyme_engine::model::features::ImageFeatures;
use thyme_engine::model::parameters::{Gradients, Spec, Weights};
use thyme_engine::model::vision::{ImageBatch, MergerSaved, TowerSaved};
use thyme_engine::model::{Activations, Keep, Model};
use thyme_engine::ops::adamw::{CodeMap, MOMENT_BLOCK, Moment, SIGNED, UNSIGNED};
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::ops::token_logprob::TokenLogprobs;
use thyme_engine::ops::{Backend, Dtype, Host, HostMut, Tensor};
use thyme_engine::prompt::{PreparedImage, read_image_settings};
use thyme_engine::recipe::LogprobKind;
use thyme_engine::recipe::optimizer::{Optim, OptimizerSettings};
use thyme_engine::reference::Reference;
use thyme_engine::train::learner::{Learner, LearnerSettings, PackLogprobs};
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};

const CHECKPOINTS: [&str; 4] =
    ["qwen2_5_vl_untied_flat", "qwen2_5_vl_tied_nested", "qwen2_vl_tied_flat", "qwen2_vl_untied_nested"];
/// Language models without a vision tower.
const TEXT_CHECKPOINTS: [&str; 1] = ["qwen3_vl_text"];

// Transformers' own float32 is off float64 by 2e-6, 3e-6 and 5e-5 on these checkpoints; ours rounds in another order.
/// Of a log-prob, absolute.
pub(super) const LOGPROB: f64 = 1e-4;
/// Of a tensor, by the norm of the difference over the norm.
const RELATIVE: f64 = 1e-4;
/// Of a loss during training, absolute: a weight near a rounding boundary may go either way.
const LOSS: f64 = 1e-3;

// ---- what is proven ----

#[test]
fn positions_equal_transformers() {
    for name in CHECKPOINTS {
        let golden = Golden::open(name);
        let config = Checkpoint::open(&golden.folder).unwrap().config;
        for case in &golden.file.cases {
            let found = golden.input(&config, &[case]).pack.batch.positions;
            let axes: [Vec<u32>; 3] = [0, 1, 2].map(|axis| found.iter().map(|p| p[axis]).collect());
            assert_eq!(axes, case.positions, "{name} {}", case.name);
        }
    }
}

#[test]
fn the_reference_computes_the_hidden_states_of_transformers() {
    hidden_states_agree(Arc::new(Reference));
}

#[test]
fn the_reference_computes_the_logprobs_of_transformers() {
    logprobs_agree(Arc::new(Reference));
}

#[test]
fn the_reference_computes_the_gradients_of_autograd() {
    gradients_agree(Arc::new(Reference), Keep::Activations);
}

#[test]
fn the_cpu_computes_the_hidden_states_of_transformers() {
    hidden_states_agree(Arc::new(Cpu::new()));
}

#[test]
fn the_cpu_computes_the_logprobs_of_transformers() {
    logprobs_agree(Arc::new(Cpu::new()));
}

#[test]
fn the_cpu_computes_the_gradients_of_autograd() {
    gradients_agree(Arc::new(Cpu::new()), Keep::Activations);
}

#[test]
fn recomputed_layers_give_the_gradients_of_autograd() {
    gradients_agree(Arc::new(Cpu::new()), Keep::LayerInputs);
}

#[test]
fn the_cpu_trains_as_a_torch_loop_does() {
    losses_agree(Arc::new(Cpu::new()));
}

#[test]
fn the_reference_trains_as_a_torch_loop_does() {
    losses_agree(Arc::new(Reference));
}

#[test]
fn a_saved_checkpoint_holds_the_tensors_that_were_loaded_under_released_names() {
    for name in all_checkpoints() {
        let golden = Golden::open(name);
        let run = Run::open(&golden, Arc::new(Reference));
        let parent = tempfile::tempdir().unwrap();
        let saved = parent.path().join("saved");
        checkpoint::folder::save(&run.model, &run.weights, &golden.folder, &saved, |_| Ok(())).unwrap();
        let released = |name: String| name.replace("model.visual.", "visual.").replace("language_model.", "");
        let (found, wanted) = (stored_tensors(&saved), stored_tensors(&golden.folder));
        let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(stored, tensor)| (released(stored), tensor)).collect();
        assert!(found.keys().eq(wanted.keys()), "{name}: {:?}, not {:?}", found.keys(), wanted.keys());
        for (tensor, bytes) in &found {
            assert!(bytes == &wanted[tensor], "{name}: {tensor} has another shape or other bits");
        }
        let files = ["config.json", "preprocessor_config.json"];
        for file in files.into_iter().filter(|file| golden.folder.join(file).exists()) {
            let read = |folder: &Path| std::fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(read(&saved), read(&golden.folder), "{name} {file}");
        }
    }
}

/// Odd widths of the tower's MLP are padded: what is computed, learned and saved is what it is without padding, bit for bit.
#[test]
fn padding_changes_no_bit() {
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    for name in CHECKPOINTS {
        let golden = Golden::open(name);
        let learned = [false, true].map(|is_padded| learned(&golden, backend.clone(), is_padded));
        let [unpadded, padded] = &learned;
        assert!(padded.learner.model().layout.elements() >= unpadded.learner.model().layout.elements());
        assert_eq!(padded.logprobs, unpadded.logprobs, "{name}");
        for (found, wanted) in padded.tensors.iter().zip(&unpadded.tensors) {
            assert_eq!(found, wanted, "{name}");
        }
        // What was saved without padding is taken up with it, and goes on with the same bits.
        let folder = tempfile::tempdir().unwrap();
        unpadded.learner.save_moments(folder.path()).unwrap();
        let mut resumed = learned_of(&golden, backend.clone(), true);
        resumed.load_moments(folder.path(), unpadded.learner.updates()).unwrap();
        let state = |learner: &Learner| -> Vec<Vec<u32>> {
            let kept = learner.moments().iter().flatten().flat_map(resume::Moments::tensors);
            kept.map(|tensor| backend.to_f32(tensor).into_iter().map(f32::to_bits).collect()).collect()
        };
        assert_eq!(state(&resumed), state(&padded.learner), "{name}");
    }
    // 27 is held as 32: gate and up of 32 rows each, their offsets, and down of 32 columns.
    let layout = Run::open(&Golden::open("qwen2_5_vl_untied_flat"), Arc::new(Reference)).model.layout;
    let padded = layout.specs.iter().filter(|spec| spec.is_padded()).map(|spec| spec.shape.clone());
    assert_eq!(padded.collect::<BTreeSet<_>>(), BTreeSet::from([vec![64], vec![64, 16], vec![16, 32]]));
}

/// In 8 bits other elements share a scale once there is padding: each number is rounded once more, to the nearest of the map, whose steps
/// are at most 0.9/64 of a block's scale.
#[test]
fn moments_in_8_bits_are_taken_up_without_their_padding() {
    let golden = Golden::open("qwen2_5_vl_untied_flat");
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let [mut unpadded, mut padded] = [false, true].map(|is_padded| {
        let learner = learned_of(&golden, backend.clone(), is_padded);
        let (model, weights) = (learner.model().clone(), backend_weights(&golden, learner.model()));
        let mut settings = learner.settings().clone();
        settings.optimizer.optim = Optim::Adamw8bit;
        Learner::new(model, weights, settings)
    });
    let pack = golden.input(&unpadded.model().config, &[golden.case("one")]).pack;
    let temperatures = vec![1.0; pack.targets.len()];
    unpadded.accumulate(&pack, &temperatures, LogprobKind::Raw, |logprobs| vec![-1.0; logprobs.logprob.len()]);
    assert!(unpadded.update(1e-3).applied);
    let folder = tempfile::tempdir().unwrap();
    unpadded.save_moments(folder.path()).unwrap();
    padded.load_moments(folder.path(), 1).unwrap();
    let numbers = |moment: &Moment, map: &CodeMap| -> (Vec<f32>, f32) {
        let mut codes = vec![0; moment.values.len()];
        backend.download(&moment.values, HostMut::U8(&mut codes));
        let scales = backend.to_f32(moment.scales.as_ref().unwrap());
        let numbers = codes.iter().enumerate().map(|(i, code)| map.value(*code) * scales[i / MOMENT_BLOCK]);
        (numbers.collect(), scales.iter().copied().fold(0.0, f32::max))
    };
    let moments =
        padded.moments().iter().zip(unpadded.moments().iter()).map(|(a, b)| [a, b].map(|m| m.as_ref().unwrap()));
    let mut compared = 0;
    for (spec, [found, wanted]) in padded.model().layout.specs.iter().zip(moments) {
        for (of, map) in [((&found.m, &wanted.m), &SIGNED), ((&found.v, &wanted.v), &UNSIGNED)] {
            if of.0.scales.is_none() || !spec.is_padded() {
                continue;
            }
            let ((found, _), (wanted, largest)) = (numbers(of.0, map), numbers(of.1, map));
            let found = spec.sources.iter().flat_map(|source| spec.source_elements(source, &found));
            assert!(largest > 0.0);
            for (found, wanted) in found.zip(wanted) {
                assert!(
                    (found - wanted).abs() <= 0.5 * 0.9 / 64.0 * largest + f32::EPSILON * largest,
                    "{}",
                    spec.name()
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 0);
}

/// The weights of a golden checkpoint.
fn backend_weights(golden: &Golden, model: &Model) -> Weights {
    Checkpoint::open(&golden.folder).unwrap().weights(model).unwrap()
}

/// What three updates came to.
struct Learned {
    learner: Learner,
    logprobs: Vec<u32>,
    /// Gradients of the last update and weights, cut into the checkpoint's tensors.
    tensors: Vec<(String, Vec<u32>)>,
}

/// A learner on a golden checkpoint, its layout padded or as the checkpoint's tensors are.
fn learned_of(golden: &Golden, backend: Arc<dyn Backend>, is_padded: bool) -> Learner {
    let checkpoint = Checkpoint::open(&golden.folder).unwrap();
    let mut model = checkpoint.model(backend);
    if !is_padded {
        model.layout.specs.iter_mut().for_each(without_padding);
    }
    let weights = checkpoint.weights(&model).unwrap();
    let scale = golden.input(&model.config, &[golden.case("one")]).scale;
    Learner::new(model, weights, golden.file.adamw.settings(scale))
}

fn without_padding(spec: &mut Spec) {
    spec.shape = spec.stored_shape();
    let mut end = 0;
    for source in &mut spec.sources {
        source.rows = end..end + source.rows.len();
        end = source.rows.end;
    }
}

fn learned(golden: &Golden, backend: Arc<dyn Backend>, is_padded: bool) -> Learned {
    let mut learner = learned_of(golden, backend.clone(), is_padded);
    let input = golden.input(&learner.model().config, &[golden.case("one")]);
    let (pack, mut logprobs, mut tensors) = (&input.pack, Vec::new(), Vec::new());
    let temperatures = vec![1.0; pack.targets.len()];
    let cut = |spec: &Spec, tensor: &Tensor| -> Vec<(String, Vec<u32>)> {
        let values: Vec<u32> = backend.to_f32(tensor).into_iter().map(f32::to_bits).collect();
        spec.sources.iter().map(|source| (source.name.clone(), spec.source_elements(source, &values))).collect()
    };
    for _ in 0..3 {
        tensors.clear();
        learner.accumulate(pack, &temperatures, LogprobKind::Raw, |PackLogprobs { logprob, .. }| {
            logprobs.extend(logprob.iter().map(|x| x.to_bits()));
            vec![-1.0 / logprob.len() as f32; logprob.len()]
        });
        let specs = &learner.model().layout.specs;
        let gradients = specs.iter().zip(learner.gradients().unwrap().iter());
        tensors.extend(gradients.flat_map(|(spec, gradient)| cut(spec, gradient.as_ref().unwrap())));
        assert!(learner.update(golden.file.adamw.learning_rate).applied);
    }
    let weights = learner.model().layout.specs.iter().zip(learner.weights().values.iter());
    tensors.extend(weights.flat_map(|(spec, weight)| cut(spec, weight)));
    Learned { learner, logprobs, tensors }
}

fn hidden_states_agree(backend: Arc<dyn Backend>) {
    for name in CHECKPOINTS {
        let golden = Golden::open(name);
        let run = Run::open(&golden, backend.clone());
        let case = golden.case("one");
        let input = golden.input(&run.model.config, &[case]);
        let (unmerged_features, _) = run.model.tower_forward(&run.weights, &input.images(), false);
        let (images, _) = run.model.merger_forward(&run.weights, &unmerged_features);
        let every_row = Batch { rows: None, ..input.pack.batch.clone() };
        let (normed, _) = run.model.forward(&run.weights, &every_row, Some(&images), Keep::Activations);
        for (what, found) in [("vision/merged", &images.rows), ("text/normed", &normed)] {
            let wanted = golden.tensor(&format!("one/{what}"));
            let found: Vec<f64> = backend.to_f32(found).into_iter().map(f64::from).collect();
            assert_near(&found, &wanted, &format!("{name} {what}"));
        }
    }
}

fn logprobs_agree(backend: Arc<dyn Backend>) {
    for name in all_checkpoints() {
        let golden = Golden::open(name);
        let run = Run::open(&golden, backend.clone());
        for case in golden.plain_cases() {
            let found = run.forward(&golden.input(&run.model.config, &[case])).logprobs();
            assert_eq!(found.len() + 1, case.logprobs.len());
            for (token, (found, wanted)) in found.iter().zip(case.logprobs[1..].iter().flatten()).enumerate() {
                let difference = (found - wanted).abs();
                assert!(difference <= LOGPROB, "{name} {}, token {}: {found}, not {wanted}", case.name, token + 1);
            }
        }
    }
}

/// Of every tensor in every case by its projections, and in full where the golden file holds it.
fn gradients_agree(backend: Arc<dyn Backend>, keep: Keep) {
    for name in all_checkpoints() {
        let golden = Golden::open(name);
        let run = Run { keep, ..Run::open(&golden, backend.clone()) };
        for case in golden.plain_cases() {
            let gradients = run.forward(&golden.input(&run.model.config, &[case])).backward();
            run.assert_gradients(&golden, case, &gradients);
        }
    }
}

/// The learner takes AdamW's steps, as a run does, and reports each loss before its step.
fn losses_agree(backend: Arc<dyn Backend>) {
    for name in all_checkpoints() {
        let golden = Golden::open(name);
        let adamw = &golden.file.adamw;
        let Run { model, weights, .. } = Run::open(&golden, backend.clone());
        let cases: Vec<&Case> = adamw.batch.iter().map(|case| golden.case(case)).collect();
        let Input { pack, scale } = golden.input(&model.config, &cases);
        let mut learner = Learner::new(model, weights, adamw.settings(scale));
        let temperatures = vec![1.0; pack.targets.len()];
        for (step, wanted) in adamw.losses.iter().enumerate() {
            let mut loss = f64::NAN;
            learner.accumulate(&pack, &temperatures, LogprobKind::Raw, |PackLogprobs { logprob, .. }| {
                loss = -logprob.iter().map(|&logprob| f64::from(logprob)).sum::<f64>() / logprob.len() as f64;
                vec![-1.0 / logprob.len() as f32; logprob.len()]
            });
            assert!((loss - wanted).abs() <= LOSS, "{name}: loss {step} is {loss}, not {wanted}");
            assert!(learner.update(adamw.learning_rate).applied);
        }
    }
}

fn all_checkpoints() -> impl Iterator<Item = &'static str> {
    CHECKPOINTS.into_iter().chain(TEXT_CHECKPOINTS)
}

#[track_caller]
pub(super) fn assert_near(found: &[f64], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of elements");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(wanted).map(|(a, b)| a - b));
    let error = difference / norm(&mut wanted.iter().copied());
    assert!(error <= RELATIVE, "{what} is off by {error:.1e} of its norm");
}

/// The ±1 sums of the README: entry `i` counts as -1 in sum `k` when bit `k` of splitmix64(i) is set.
fn project(values: &[f64], sums: usize) -> Vec<f64> {
    let mut projected = vec![0.0; sums];
    for (i, &value) in values.iter().enumerate() {
        let bits = splitmix64(i as u64);
        for (k, sum) in projected.iter_mut().enumerate() {
            *sum += if bits >> k & 1 == 1 { -value } else { value };
        }
    }
    projected
}

fn splitmix64(i: u64) -> u64 {
    let z = i.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

// ---- a model on a backend ----

pub(super) struct Run {
    pub(super) model: Model,
    pub(super) weights: Weights,
    pub(super) keep: Keep,
}

/// A forward pass over a batch whose every sequence predicts all its tokens but the first.
pub(super) struct Forward<'a> {
    run: &'a Run,
    images: Option<Images>,
    activations: Activations,
    h: Tensor,
    targets: Tensor,
    ones: Tensor,
    scored: TokenLogprobs,
}

/// The vision tower's part of a forward pass.
struct Images {
    features: ImageFeatures,
    tower: TowerSaved,
    merger: MergerSaved,
}

impl Run {
    pub(super) fn open(golden: &Golden, backend: Arc<dyn Backend>) -> Run {
        let checkpoint = Checkpoint::open(&golden.folder).unwrap();
        let model = checkpoint.model(backend);
        let weights = checkpoint.weights(&model).unwrap();
        Run { model, weights, keep: Keep::Activations }
    }

    pub(super) fn forward(&self, input: &Input) -> Forward<'_> {
        let Run { model, weights, keep } = self;
        let backend = &*model.backend;
        let images = (!input.pack.images.is_empty()).then(|| {
            let (unmerged_features, tower) = model.tower_forward(weights, &input.images(), true);
            let (features, merger) = model.merger_forward(weights, &unmerged_features);
            Images { features, tower: tower.unwrap(), merger }
        });
        let features = images.as_ref().map(|images| &images.features);
        let (h, activations) = model.forward(weights, &input.pack.batch, features, *keep);
        let targets: Vec<i32> = input.pack.targets.iter().map(|&id| id as i32).collect();
        let ones = vec![1.0; targets.len()];
        let targets = backend.indices(&targets);
        let ones = backend.upload(Host::F32(&ones), &[ones.len()], Dtype::F32);
        let scored = backend.token_logprob_forward(&h, model.head(weights), &targets, &ones, &[]);
        Forward { run: self, images, activations, h, targets, ones, scored }
    }

    /// The golden file's gradients of a case, of every tensor.
    pub(super) fn assert_gradients(&self, golden: &Golden, case: &Case, gradients: &Gradients) {
        let mut compared = BTreeSet::new();
        for (tensor, found) in self.by_checkpoint_name(gradients) {
            let what = format!("{} {}: gradient of {tensor}", golden.folder.display(), case.name);
            let key = format!("{}/projected/{tensor}", case.name);
            if !golden.names.contains(&key) {
                assert!(found.iter().all(|&x| x == 0.0), "{what} is not zero, but the tensor takes no part");
                continue;
            }
            let wanted = golden.tensor(&key);
            let (norm, sums) = wanted.split_last().unwrap();
            let squared = project(&found, sums.len()).iter().zip(sums).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            let error = (squared / sums.len() as f64).sqrt() / norm;
            assert!(error <= RELATIVE, "{what} is off by {error:.1e} of its norm");
            if golden.names.contains(&format!("{}/gradient/{tensor}", case.name)) {
                assert_near(&found, &golden.tensor(&format!("{}/gradient/{tensor}", case.name)), &what);
            }
            compared.insert(key);
        }
        let projected = golden.names_under(&format!("{}/projected/", case.name));
        assert_eq!(compared, projected, "{} {}", golden.folder.display(), case.name);
    }

    /// Gradients cut into the checkpoint's tensors.
    fn by_checkpoint_name(&self, gradients: &Gradients) -> Vec<(String, Vec<f64>)> {
        let mut named = Vec::new();
        for (spec, gradient) in self.model.layout.specs.iter().zip(gradients.iter()) {
            let values = self.model.backend.to_f32(gradient.as_ref().expect("every parameter is trained"));
            for source in &spec.sources {
                let part = spec.source_elements(source, &values);
                named.push((source.name.clone(), part.into_iter().map(f64::from).collect()));
            }
        }
        named
    }
}

impl Forward<'_> {
    pub(super) fn logprobs(&self) -> Vec<f64> {
        self.run.model.backend.to_f32(&self.scored.logprob).into_iter().map(f64::from).collect()
    }

    /// Gradients of the mean negative log-likelihood of the predicted tokens.
    fn backward(self) -> Gradients {
        let Forward { run: Run { model, weights, .. }, images, activations, h, targets, ones, scored } = self;
        let backend = &*model.backend;
        let count = ones.len();
        let dlogprob = vec![-1.0 / count as f32; count];
        let dlogprob = backend.upload(Host::F32(&dlogprob), &[count], Dtype::F32);
        let mut gradients = model.gradients(|_| true);
        let dhead = gradients[model.layout.head].as_mut();
        let head = model.head(weights);
        let dh =
            backend.token_logprob_backward(&dlogprob, &h, head, &targets, &ones, &scored.lse_raw, &[], None, dhead);
        let features = images.as_ref().map(|images| &images.features);
        let dfeatures = model.backward(weights, &mut gradients, activations, &dh, features);
        if let (Some(Images { tower, merger, .. }), Some(dfeatures)) = (images, dfeatures) {
            let dunmerged = model.merger_backward(weights, &mut gradients, &merger, &dfeatures);
            model.tower_backward(weights, &mut gradients, &tower, &dunmerged);
        }
        gradients
    }
}

// ---- golden files ----

/// Shape and bytes of every tensor in a folder's safetensors files, by the name that it has there.
fn stored_tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut tensors = BTreeMap::new();
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
        let bytes = std::fs::read(path).unwrap();
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            tensors.insert(name, (tensor.shape().to_vec(), tensor.data().to_vec()));
        }
    }
    tensors
}

pub(super) struct Golden {
    pub(super) folder: PathBuf,
    file: GoldenFile,
    tensors: Vec<u8>,
    names: BTreeSet<String>,
}

#[derive(Deserialize)]
struct GoldenFile {
    cases: Vec<Case>,
    adamw: AdamwGolden,
}

#[derive(Deserialize)]
pub(super) struct Case {
    name: String,
    pub(super) token_ids: Vec<u32>,
    images: Vec<Size>,
    positions: [Vec<u32>; 3],
    /// Each token's row of the features that the case gives in place of images, or -1.
    #[serde(default)]
    pub(super) image_index: Vec<i32>,
    pub(super) logprobs: Vec<Option<f64>>,
}

impl Case {
    /// The position of each token.
    pub(super) fn positions(&self) -> impl Iterator<Item = [u32; 3]> {
        (0..self.token_ids.len()).map(|token| [0, 1, 2].map(|axis| self.positions[axis][token]))
    }
}

#[derive(Clone, Copy, Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct AdamwGolden {
    learning_rate: f64,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    max_grad_norm: f64,
    batch: Vec<String>,
    losses: Vec<f64>,
}

impl AdamwGolden {
    /// Settings under which all parts of the model are trained.
    fn settings(&self, pixel_scale: PixelScale) -> LearnerSettings {
        LearnerSettings {
            optimizer: OptimizerSettings {
                adam_beta1: self.beta1,
                adam_beta2: self.beta2,
                adam_epsilon: self.epsilon,
                weight_decay: self.weight_decay,
                max_grad_norm: self.max_grad_norm,
                ..OptimizerSettings::default()
            },
            freeze_vision_tower: false,
            freeze_merger: false,
            activation_recompute: false,
            pixel_scale,
        }
    }
}

/// Sequences packed one behind the other, and how their pictures are normalised.
pub(super) struct Input {
    pack: Pack,
    scale: PixelScale,
}

impl Input {
    fn images(&self) -> ImageBatch<'_> {
        let images = self.pack.images.iter().map(|i| (i.prepared.patches.as_slice(), i.prepared.grid)).collect();
        ImageBatch { images, scale: self.scale }
    }
}

impl Golden {
    pub(super) fn open(name: &str) -> Golden {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model");
        let file = std::fs::read(root.join(format!("{name}.json"))).unwrap();
        let tensors = std::fs::read(root.join(format!("{name}.safetensors"))).unwrap();
        let names = SafeTensors::deserialize(&tensors).unwrap().names().into_iter().map(str::to_owned).collect();
        Golden { folder: root.join(name), file: serde_json::from_slice(&file).unwrap(), tensors, names }
    }

    /// The same cases, of a checkpoint that was changed.
    pub(super) fn with_folder(self, folder: &Path) -> Golden {
        Golden { folder: folder.to_owned(), ..self }
    }

    pub(super) fn case(&self, name: &str) -> &Case {
        self.file.cases.iter().find(|case| case.name == name).unwrap()
    }

    /// Cases whose images, if there are any, go through the vision tower.
    fn plain_cases(&self) -> impl Iterator<Item = &Case> {
        self.file.cases.iter().filter(|case| case.image_index.is_empty())
    }

    pub(super) fn tensor(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.tensors).unwrap();
        let tensor = file.tensor(name).unwrap();
        bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data()).into_iter().map(f64::from).collect()
    }

    fn names_under(&self, prefix: &str) -> BTreeSet<String> {
        self.names.iter().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    pub(super) fn input(&self, config: &Config, cases: &[&Case]) -> Input {
        let settings = config.vision.as_ref().map(|_| read_image_settings(&self.folder).unwrap()).unwrap_or_default();
        let image = |(k, &size): (usize, &Size)| SampleImage {
            prepared: Arc::new(PreparedImage::prepare(&draw(size, k as u32), &settings).unwrap()),
            unmerged_features: None,
        };
        let sample = |case: &&Case| Sample {
            ids: case.token_ids.clone(),
            trained: vec![true; case.token_ids.len()],
            images: case.images.iter().enumerate().map(image).collect(),
        };
        let samples: Vec<Sample> = cases.iter().map(sample).collect();
        let layout = Layout { merge: config.merge(), image_pad: config.image_pad };
        let mut pack = Pack::new(&samples.iter().collect::<Vec<_>>(), layout);
        if config.vision.is_none() {
            pack.batch.positions = cases.iter().flat_map(|case| case.positions()).collect();
        }
        Input { pack, scale: PixelScale { mean: settings.mean, std: settings.std } }
    }
}

/// The picture of the README.
fn draw(size: Size, image: u32) -> RgbImage {
    RgbImage::from_fn(size.width, size.height, |x, y| {
        Rgb([0, 1, 2].map(|c| ((7 * x + 13 * y + x * y + 61 * c + 29 * image) % 256) as u8))
    })
}
