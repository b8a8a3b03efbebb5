//! The language model of Qwen3-VL: features that are added behind its first layers as transformers adds them, the same bits over pages,
//! and one policy in sampler and trainer. `tests/golden/model/README.md` says what the golden file holds; `parity.rs` has the rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use thyme_engine::cpu::Cpu;
use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::engine::request::{GenerateRequest, Sampled, Stops};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Keep;
use thyme_engine::model::batch::{Batch, BatchPages};
use thyme_engine::model::features::ImageFeatures;
use thyme_engine::ops::{Backend, Dtype, Host, Tensor};
use thyme_engine::prompt::Processor;
use thyme_engine::reference::Reference;

use super::parity::{Case, Golden, LOGPROB, Run, assert_near};

const CHECKPOINT: &str = "qwen3_vl_text";

/// The golden features, as the reference or another backend holds them.
fn features(golden: &Golden, run: &Run) -> ImageFeatures {
    let tensor = |name: &str| {
        let values = golden.tensor(&format!("deep/features/{name}"));
        let dim = run.model.config.dim;
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        run.model.backend.upload(Host::F32(&values), &[values.len() / dim, dim], Dtype::Activation)
    };
    ImageFeatures { rows: tensor("rows"), deep: ["deep_0", "deep_1"].map(tensor).into() }
}

/// The whole case as one sequence.
fn batch(case: &Case) -> Batch {
    Batch {
        ids: case.token_ids.clone(),
        positions: case.positions().collect(),
        bounds: vec![0, case.token_ids.len()],
        image_index: case.image_index.clone(),
        ..Batch::default()
    }
}

fn agree(backend: Arc<dyn Backend>, keep: Keep) {
    let golden = Golden::open(CHECKPOINT);
    let run = Run::open(&golden, backend);
    let (model, weights, case) = (&run.model, &run.weights, golden.case("deep"));
    let backend = &*model.backend;
    let images = features(&golden, &run);
    let count = case.token_ids.len() - 1;
    let batch = Batch { rows: Some((0..count).collect()), ..batch(case) };
    let (h, activations) = model.forward(weights, &batch, Some(&images), keep);
    let targets: Vec<i32> = case.token_ids[1..].iter().map(|&id| id as i32).collect();
    let targets = backend.indices(&targets);
    let upload = |value| backend.upload(Host::F32(&vec![value; count]), &[count], Dtype::F32);
    let (ones, dlogprob) = (upload(1.0), upload(-1.0 / count as f32));
    let scored = backend.token_logprob_forward(&h, model.head(weights), &targets, &ones, &[]);
    let found = backend.to_f32(&scored.logprob);
    for (token, (&found, wanted)) in found.iter().zip(case.logprobs[1..].iter().flatten()).enumerate() {
        let difference = (f64::from(found) - wanted).abs();
        assert!(difference <= LOGPROB, "token {}: {found}, not {wanted}", token + 1);
    }

    let mut gradients = model.gradients(|_| true);
    let dhead = gradients[model.layout.head].as_mut();
    let head = model.head(weights);
    let dh = backend.token_logprob_backward(&dlogprob, &h, head, &targets, &ones, &scored.lse_raw, &[], None, dhead);
    let found = model.backward(weights, &mut gradients, activations, &dh, Some(&images)).unwrap();
    run.assert_gradients(&golden, case, &gradients);
    let found = [("rows", &found.rows), ("deep_0", &found.deep[0]), ("deep_1", &found.deep[1])];
    for (name, found) in found {
        let found: Vec<f64> = backend.to_f32(found).into_iter().map(f64::from).collect();
        assert_near(&found, &golden.tensor(&format!("deep/dfeatures/{name}")), name);
    }
}

#[test]
fn the_reference_adds_deep_features_as_transformers_does() {
    agree(Arc::new(Reference), Keep::Activations);
}

#[test]
fn the_cpu_adds_deep_features_as_transformers_does() {
    agree(Arc::new(Cpu::new()), Keep::Activations);
}

#[test]
fn recomputed_layers_take_deep_features_too() {
    agree(Arc::new(Cpu::new()), Keep::LayerInputs);
}

fn backends() -> [Arc<dyn Backend>; 2] {
    [Arc::new(Cpu::new()), Arc::new(Cuda::new(Arc::new(Simt::new(SimtOptions::fast()).unwrap())))]
}

/// The same tokens in two chunks, the cut inside an image, with keys in pages.
#[test]
fn normalised_heads_and_deep_features_have_the_same_bits_over_pages() {
    for backend in backends() {
        let golden = Golden::open(CHECKPOINT);
        let run = Run::open(&golden, backend.clone());
        let images = features(&golden, &run);
        let whole = batch(golden.case("deep"));
        let packed = run.model.forward(&run.weights, &whole, Some(&images), Keep::Nothing).0;

        let layers = 0..run.model.config.layers;
        let mut pages: Vec<Tensor> = layers.map(|_| backend.attention_pages(2, run.model.config.heads)).collect();
        let mut found = Vec::new();
        for tokens in [0..7, 7..whole.tokens()] {
            let chunk = Batch {
                ids: whole.ids[tokens.clone()].to_vec(),
                positions: whole.positions[tokens.clone()].to_vec(),
                bounds: vec![0, tokens.len()],
                image_index: whole.image_index[tokens.clone()].to_vec(),
                pages: Some(BatchPages {
                    slots: tokens.clone().collect(),
                    page_tables: vec![vec![0, 1]],
                    lengths: vec![tokens.end],
                    ..BatchPages::default()
                }),
                ..Batch::default()
            };
            let h = run.model.forward_paged(&run.weights, &chunk, Some(&images), &mut pages);
            found.extend(backend.to_f32(&h));
        }
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(found), bits(backend.to_f32(&packed)), "{}", backend.name());
    }
}

/// On simt the decoding steps are captured and replayed.
#[test]
fn what_the_engine_samples_has_the_logprobs_of_training_to_the_bit() {
    // The prompt is token ids, so it does not matter whose tokenizer this is.
    let processor = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft");
    let processor = Arc::new(Processor::open(&processor).unwrap());
    let limits = EngineLimits { pages: 32, prefill_chunk_tokens: 4, sequences: 3 };
    let prompt: Vec<u32> = (20..27).collect();
    for backend in backends() {
        let Run { model, weights, .. } = Run::open(&Golden::open(CHECKPOINT), backend.clone());
        let mut engine = Engine::new(model.clone(), processor.clone(), limits);
        engine
            .open(&GenerateRequest {
                token_ids: prompt.clone(),
                sequences: vec![0, 1, 2],
                seed: 7,
                stops: Stops { turn_tokens: 11, total_tokens: 11, ..Stops::default() },
                ..GenerateRequest::default()
            })
            .unwrap();
        let (mut sampled, mut stopped): (BTreeMap<u64, Vec<Sampled>>, _) = (BTreeMap::new(), 0);
        while stopped < 3 {
            for event in engine.step(&weights).unwrap() {
                sampled.entry(event.sequence).or_default().extend(event.token);
                stopped += usize::from(event.stopped.is_some());
            }
        }
        for (sequence, sampled) in sampled {
            let targets: Vec<u32> = sampled.iter().map(|token| token.id).collect();
            let ids = [&prompt[..], &targets].concat();
            let batch = Batch {
                positions: (0..ids.len() as u32).map(|position| [position; 3]).collect(),
                bounds: vec![0, ids.len()],
                rows: Some((prompt.len() - 1..ids.len() - 1).collect()),
                ids,
                ..Batch::default()
            };
            let (h, _) = model.forward(&weights, &batch, None, Keep::Nothing);
            let targets = backend.indices(&Vec::from_iter(targets.iter().map(|&id| id as i32)));
            let ones = backend.upload(Host::F32(&[1.0; 11]), &[11], Dtype::F32);
            let scored = backend.token_logprob_forward(&h, model.head(&weights), &targets, &ones, &[]);
            let wanted = backend.to_f32(&scored.logprob).into_iter().map(f32::to_bits);
            let found = sampled.iter().map(|token| token.logprob.to_bits());
            assert!(found.eq(wanted), "{}: sequence {sequence}", backend.name());
        }
    }
}
