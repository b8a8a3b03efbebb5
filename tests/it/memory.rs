//! Memory on CUDA's side: the arena, captured graphs, and a plan's prediction against what rollouts and updates of real sizes hold. Memory
//! can be counted without having any: the device here has addresses only, and runs nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thyme_engine::cuda::arena::{Arena, Piece};
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::{self, Cuda};
use thyme_engine::engine::request::{GenerateRequest, Sampling, Stops};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::parameters::{Parameters, Spec, Weights};
use thyme_engine::ops::attention::{Heads, Keys, PAGE_TOKENS};
use thyme_engine::ops::linear::Linear;
use thyme_engine::ops::rows::Rows;
use thyme_engine::ops::{Backend, Buffers, Dtype, Host, HostMut, MemoryUse, Tensor};
use thyme_engine::prompt::PreparedImage;
use thyme_engine::prompt::positions::Grid;
use thyme_engine::recipe::LogprobKind;
use thyme_engine::recipe::layers::load;
use thyme_engine::recipe::plan::Plan;
use thyme_engine::train::learner::Learner;
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};
use thyme_engine::train::sizes::{engine_limits, learner_settings, memory_plan};

use crate::recipes::{QWEN_2_5_VL_7B, QWEN_2_VL_2B};
use crate::support::addresses::Addresses;
use crate::support::command::Workplace;
use crate::support::small_policy::{Random, SmallPolicy};

#[test]
fn an_arena_hands_out_no_byte_twice_and_gets_all_back() {
    const BYTES: u64 = 1 << 20;
    let device = Arc::new(Addresses::default());
    let arena = Arena::new(device.clone(), BYTES).unwrap();
    let (mut random, mut pieces) = (Random::new(5), Vec::<Piece>::new());
    for _ in 0..20_000 {
        if random.below(100) < 55 {
            let size = [0, 1, 255, 256, 257, 5000, 40_000][random.below(7)];
            pieces.push(arena.take(size).unwrap());
        } else if !pieces.is_empty() {
            pieces.swap_remove(random.below(pieces.len()));
        }
        if random.one_in(50) {
            let mut spans: Vec<(u64, u64)> = pieces
                .iter()
                .map(|piece| (piece.span().address(), piece.span().bytes() as u64))
                .filter(|(_, bytes)| *bytes > 0)
                .collect();
            spans.sort_unstable();
            assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            assert!(spans.iter().all(|(address, _)| address % 256 == 0));
        }
        if pieces.len() > 400 {
            pieces.clear();
        }
    }
    assert!(arena.usage().beyond > 0, "the test asks for more than the arena has");
    pieces.clear();
    assert_eq!(arena.usage().held, 0);
    assert_eq!(device.held.lock().unwrap().len(), 1, "what went beyond is given back");
    let whole = arena.take(BYTES as usize).unwrap();
    assert_eq!(device.held.lock().unwrap().len(), 1, "the block is whole again");
    drop((whole, arena));
    assert!(device.held.lock().unwrap().is_empty());
}

#[test]
fn a_recording_computes_with_new_values_in_memory_of_its_own() {
    let device = Arc::new(Simt::new(SimtOptions::fast()).unwrap());
    let cuda = Cuda::with_arena(device, 1 << 20).unwrap();
    let (rows, dim) = (4, 32);
    let mut random = Random::new(6);
    let mut values = || -> Vec<f32> { (0..dim * dim).map(|_| random.below(9) as f32 - 4.0).collect() };
    let w = cuda.upload(Host::F32(&values()), &[dim, dim], Dtype::Bf16);
    let input = |values: &[f32]| cuda.upload(Host::F32(&values[..rows * dim]), &[rows, dim], Dtype::Activation);
    let mut x = input(&values());
    let twice = |x: &Tensor| {
        let first = cuda.linear_forward(x, &w, None);
        let mut sum = cuda.duplicate(&first);
        cuda.add(&mut sum, x);
        let second = cuda.linear_forward(&sum, &w, None);
        let mut zero = cuda.zeros(second.shape(), Dtype::Activation);
        cuda.add(&mut zero, &second);
        zero
    };
    let download = |tensor: &Tensor| {
        let mut values = vec![0f32; tensor.len()];
        cuda.download(tensor, HostMut::F32(&mut values));
        values
    };
    let graph = cuda.capture(&mut || twice(&x)).unwrap();
    for _ in 0..3 {
        let new = values();
        // Whoever takes memory now must not get the graph's.
        let others: Vec<Tensor> = (0..20).map(|_| input(&new)).collect();
        let before: Vec<Vec<f32>> = others.iter().map(download).collect();
        cuda.overwrite(&mut x, Host::F32(&new[..rows * dim]));
        let replayed = download(&graph.replay());
        assert_eq!(replayed, download(&twice(&input(&new))));
        assert!(replayed.iter().any(|&value| value != 0.0));
        assert_eq!(others.iter().map(download).collect::<Vec<_>>(), before);
    }
    drop(graph);
    drop((x, w));
    assert_eq!(cuda.memory().unwrap().held, 0);
}

/// Sequences that only decode are one graph for each size of batch, through updates of the weights too, and take no more memory.
#[test]
fn a_decoding_step_is_captured_once_for_its_size() {
    let device = Arc::new(Addresses::default());
    let policy = SmallPolicy::open("qwen2_vl_tied_flat", Arc::new(Cuda::new(device.clone())));
    let SmallPolicy { model, mut weights, .. } = policy;
    let limits = EngineLimits { pages: 400, prefill_chunk_tokens: 64, sequences: 64 };
    let mut engine = Engine::new(model.clone(), policy.processor.clone(), limits);
    let open = |numbers: std::ops::Range<u64>, engine: &mut Engine| {
        let stops = Stops { turn_tokens: 500, total_tokens: 500, ..Stops::default() };
        let (token_ids, sequences) = (vec![1; 20], numbers.collect());
        let (images, sampling) = (Vec::new(), Sampling::default());
        engine
            .open(&GenerateRequest { token_ids, images, sequences, sampling, stops, ..GenerateRequest::default() })
            .unwrap();
    };
    let captured = |engine: &mut Engine, weights: &Weights, steps: usize| {
        let before = device.captures.load(Ordering::Relaxed);
        (0..steps).for_each(|_| drop(engine.step(weights).unwrap()));
        device.captures.load(Ordering::Relaxed) - before
    };
    open(0..5, &mut engine);
    assert_eq!(captured(&mut engine, &weights, 10), 1, "five sequences, padded to eight");
    engine.close(4);
    let held = model.backend.memory().unwrap().held;
    assert_eq!(captured(&mut engine, &weights, 10), 1, "four sequences");
    open(5..8, &mut engine);
    assert_eq!(captured(&mut engine, &weights, 10), 0, "seven sequences, padded to eight");
    assert_eq!(captured(&mut engine, &weights, 20), 0);
    weights.version += 1;
    assert_eq!(captured(&mut engine, &weights, 10), 0, "an update is made in place");
    let grown = model.backend.memory().unwrap().held - held;
    assert_eq!(captured(&mut engine, &weights, 20), 0);
    assert_eq!(model.backend.memory().unwrap().held - held, grown, "nothing is taken inside a step");
    let others = SmallPolicy::open("qwen2_vl_tied_flat", model.backend.clone()).weights;
    weights = Weights { version: weights.version + 1, ..others };
    assert_eq!(captured(&mut engine, &weights, 10), 1, "other weights lie elsewhere");
}

/// What attention of decoded tokens holds besides its results is what the plan counts, and bounded.
#[test]
fn parts_of_attention_are_planned_and_bounded() {
    let heads = Heads { heads: 28, kv_heads: 4, head_dim: 128 };
    for (sequences, keys) in [(1, 512), (8, 2048), (64, 4096), (256, 1 << 17)] {
        let backend: &dyn Backend = &Cuda::new(Arc::new(Addresses::default()));
        let pages = backend.attention_pages(1, heads);
        let page_tables = backend.zeros(&[sequences, keys / PAGE_TOKENS], Dtype::I32);
        let lengths = backend.zeros(&[sequences], Dtype::I32);
        let bounds = backend.attention_bounds(&Vec::from_iter(0..=sequences as i32), heads);
        let qkv = backend.zeros(&[sequences, heads.qkv()], Dtype::Activation);
        let before = backend.memory().unwrap().held;
        let keys_in_pages =
            Keys::Paged { pages: &pages, bounds: &bounds, page_tables: &page_tables, lengths: &lengths };
        let results = backend.attention_forward(&qkv, heads, keys_in_pages);
        let usage = backend.memory().unwrap();
        let planned = cuda::FOOTPRINT.parts_bytes(heads, sequences, Some(1), keys);
        let held = u128::from(usage.peak - usage.held);
        assert!(held <= planned && 10 * held >= 9 * planned, "{sequences} of {keys}: planned {planned}, held {held}");
        assert!(planned <= 32 << 20);
        drop(results);
        assert_eq!(backend.memory().unwrap().held, before);
    }
}

/// What a rollout's steps and an update of a plan's sizes hold at most, in an arena of `bytes`.
fn held(plan: &Plan, bytes: u64) -> MemoryUse {
    let backend = Arc::new(Cuda::with_arena(Arc::new(Addresses::default()), bytes).unwrap());
    let model = plan.checkpoint.model(backend.clone());
    let parameter = |spec: &Spec| backend.zeros(&spec.shape, Dtype::Bf16);
    let weights = Weights::new(Parameters::from_layout(&model.layout, parameter));
    let processor = Arc::new(plan.processor().unwrap());
    let recipe = &plan.recipe;
    let settings = learner_settings(recipe, processor.image_settings());
    let limits = engine_limits(plan, backend.activation_bytes());
    let mut engine = Engine::new(model.clone(), processor.clone(), limits).with_speculation(recipe.engine.speculation);
    let mut learner = Learner::new(model, weights, settings);
    let resident = backend.memory().unwrap().held;

    let settings = processor.image_settings();
    let side = (settings.max_pixels.isqrt() as u32 / 28 * 2).max(2);
    let grid = Grid { t: 1, h: side, w: side };
    let image = Arc::new(PreparedImage {
        patches: vec![0; grid.patches() * 3 * 14 * 14],
        grid,
        original_width: 0,
        original_height: 0,
        digest: 0,
        resized_width: 14 * side as usize,
        resized_height: 14 * side as usize,
    });
    let pad = processor.special_ids().image_pad;
    let prompt = [vec![1; 10], vec![pad; grid.tokens(2)], vec![1; 10]].concat();
    let (groups, members) = (recipe.grpo.prompts_per_step as u64, recipe.grpo.num_generations as u64);
    let total_tokens = plan.limits.total;
    for group in 0..groups {
        let opened = engine.open(&GenerateRequest {
            token_ids: prompt.clone(),
            images: vec![image.clone()],
            sequences: (group * members..(group + 1) * members).collect(),
            // Each row's logits once more, after the penalty.
            sampling: Sampling { repetition_penalty: 1.1, ..Sampling::default() },
            stops: Stops { turn_tokens: total_tokens, total_tokens, ..Stops::default() },
            ..GenerateRequest::default()
        });
        // The last groups may have to wait for pages.
        assert!(opened.is_ok() || group > 0);
    }
    for _ in 0..20 {
        engine.step(learner.weights()).unwrap();
    }
    (0..groups * members).for_each(|sequence| engine.close(sequence));
    engine.forget_images();
    engine.release_pages();
    assert_eq!(backend.memory().unwrap().held, resident, "a rollout leaves nothing behind");

    let tokens = recipe.training.micro_batch_tokens;
    let ids = [prompt.clone(), vec![1; tokens - prompt.len()]].concat();
    let trained = ids.iter().map(|&id| id != pad).collect();
    let sample = Sample { ids, trained, images: vec![SampleImage { prepared: image, unmerged_features: None }] };
    let pack = Pack::new(&[&sample], Layout::of(&processor));
    let ones = vec![1.0; pack.targets.len()];
    learner.accumulate(&pack, &ones, LogprobKind::Raw, |_| ones.clone());
    learner.update(1e-6);
    let usage = backend.memory().unwrap();
    assert_eq!(usage.held, resident, "an update leaves nothing behind");
    usage
}

/// The plan is what the arena is made of, so it may not be too small, and should not be much too large.
#[test]
fn a_plan_is_what_a_run_holds() {
    let place = Workplace::new();
    let base = [
        "grpo.num_generations=8",
        "grpo.prompts_per_step=4",
        "environment.max_total_tokens=2048",
        "environment.max_turn_tokens=2048",
        "grpo.beta=0.0",
        "model.max_pixels=802816",
    ];
    let cases: [&[&str]; 5] = [
        &[],
        &["engine.speculation=\"always\""],
        &["model.activation_recompute=true"],
        &["training.micro_batch_tokens=16384", "engine.prefill_chunk_tokens=8192"],
        &["model.freeze_vision_tower=false", "model.freeze_merger=false", "optimizer.optim=\"adamw_8bit\""],
    ];
    for config in [QWEN_2_5_VL_7B, QWEN_2_VL_2B] {
        place.write("model/config.json", config);
        let recipe = place.grpo("[data.needle]\n");
        for case in cases {
            let settings: Vec<String> = base.iter().chain(case).map(|setting| (*setting).to_owned()).collect();
            let plan = Plan::new(load(&recipe, &settings).unwrap(), &Default::default()).unwrap();
            let memory = memory_plan(&plan, &plan.processor().unwrap(), cuda::FOOTPRINT);
            let usage = held(&plan, memory.arena());
            let (planned, peak) = (memory.total() as f64, usage.peak as f64);
            println!("planned {:.2} GB, held {:.2} GB, beyond the arena {}", planned / 1e9, peak / 1e9, usage.beyond);
            assert!((planned / peak - 1.0).abs() < 0.03, "{case:?}: planned {planned}, held {peak}:\n{memory}");
            assert_eq!(usage.beyond, 0, "{case:?}: nothing is taken beyond the arena");
        }
    }
}
