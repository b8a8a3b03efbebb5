//! A model of real size in one process, with random weights and no checkpoint: decoding kernel by kernel, as captured graphs, and with the next
//! graph launched before the last step's tokens are read; the sampler's log-probabilities beside the trainer's; updates; and the memory that
//! all of it took beside the plan's. A JSON line for each part, printed at once.
//!
//!     cargo bench --bench large -- --device cuda
//!     cargo bench --bench large -- --device simt --config recipes/tiny/config.json --sequences 4 --prompt 24 --steps 3 --tokens 64 --micro-batch 64

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use thyme_engine::checkpoint::{Checkpoint, init};
use thyme_engine::cpu::{self, Cpu};
use thyme_engine::cuda::device::gpu::Gpu;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::{self, Cuda};
use thyme_engine::engine::request::{GenerateRequest, Sampled, Stops};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::ops::attention::PAGE_TOKENS;
use thyme_engine::ops::footprint::Footprint;
use thyme_engine::ops::patch_embed::PixelScale;
use thyme_engine::ops::{Backend, Dtype};
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::LogprobKind;
use thyme_engine::recipe::optimizer::{Optim, OptimizerSettings};
use thyme_engine::train::learner::{Learner, LearnerSettings};
use thyme_engine::train::memory_plan::{MemoryPlan, Sizes};
use thyme_engine::train::sample::{Layout, Pack, Sample, runs_by_tokens};

/// What is measured.
#[derive(Parser)]
struct Options {
    #[arg(long, value_enum, default_value = "cuda")]
    device: Device,
    /// A config.json of a model; its tokenizer is the tiny model's.
    #[arg(long, default_value = "recipes/large/qwen2_5_vl_7b.json")]
    config: PathBuf,
    /// Sequences that decode together, one measurement each.
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    sequences: Vec<usize>,
    /// Tokens of the prompt that the sequences share.
    #[arg(long, default_value_t = 1500)]
    prompt: usize,
    /// Steps of decoding that are timed.
    #[arg(long, default_value_t = 48)]
    steps: usize,
    /// Tokens whose log-probabilities are compared.
    #[arg(long, default_value_t = 200_000)]
    tokens: usize,
    /// Tokens of an update.
    #[arg(long, default_value_t = 4096)]
    micro_batch: usize,
    /// Passed by cargo.
    #[arg(long)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cuda,
    Simt,
    Cpu,
}

fn main() {
    let options = Options::parse();
    let (backend, footprint) = open(options.device);
    say("device", json!({ "config": options.config, "memory": backend.memory().map(|memory| memory.arena) }));
    let folder = folder(&options.config);
    let checkpoint = Checkpoint::open(folder.path()).expect("a config and a tokenizer");
    let processor = Arc::new(checkpoint.processor(None).expect("a tokenizer"));
    let model = checkpoint.model(backend.clone());
    let begin = Instant::now();
    let weights = init::random_weights(&model, 0);
    wait(&*backend);
    let parameters: usize = model.layout.specs.iter().map(|spec| spec.len()).sum();
    say("draw", json!({ "parameters": parameters, "seconds": begin.elapsed().as_secs_f64() }));

    let settings = learner_settings(&processor);
    let mut learner = Learner::new(model.clone(), weights, settings);
    for &sequences in &options.sequences {
        for launching in [Launching::Ahead, Launching::Graphs, Launching::Kernels] {
            decode(&options, &learner, &processor, sequences, launching);
        }
    }
    let samples = one_policy(&options, &learner, &processor);
    update(&options, &mut learner, &processor, &samples, footprint);
}

/// Prints a part's line.
fn say(part: &str, values: Value) {
    let mut line = json!({ "piece": "large", "part": part });
    let fields = line.as_object_mut().expect("it was made as one");
    fields.extend(values.as_object().expect("a part has fields").clone());
    println!("{line}");
}

/// Returns when all work on a backend is done: a copy to the host comes behind it.
fn wait(backend: &dyn Backend) {
    drop(backend.to_f32(&backend.zeros(&[1], Dtype::F32)));
}

/// A GPU's backend has nine tenths of the memory that is free.
fn open(device: Device) -> (Arc<dyn Backend>, Footprint) {
    match device {
        Device::Cuda => {
            let gpu = Arc::new(Gpu::new(0).expect("a GPU"));
            let arena = gpu.free_bytes().expect("free memory") / 10 * 9;
            (Arc::new(Cuda::with_arena(gpu, arena).expect("the memory that is free")), cuda::FOOTPRINT)
        }
        Device::Simt => {
            let simt = Simt::new(SimtOptions::fast()).expect("a C++ compiler");
            (Arc::new(Cuda::new(Arc::new(simt))), cuda::FOOTPRINT)
        }
        Device::Cpu => (Arc::new(Cpu::new()), cpu::FOOTPRINT),
    }
}

/// The config beside the tiny model's tokenizer, whose tokens are the first of any vocabulary.
fn folder(config: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir("recipes/tiny").expect("the repository's root") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "json" || ending == "jinja") {
            std::fs::copy(&path, folder.path().join(path.file_name().expect("a file"))).expect("a copy");
        }
    }
    std::fs::copy(config, folder.path().join("config.json")).expect("a config");
    folder
}

/// All of the language model is trained, with moments in 8 bits: 83 GB for 8.3 G parameters.
fn learner_settings(processor: &Processor) -> LearnerSettings {
    let image = processor.image_settings();
    LearnerSettings {
        optimizer: OptimizerSettings { optim: Optim::Adamw8bit, ..OptimizerSettings::default() },
        freeze_vision_tower: false,
        freeze_merger: false,
        activation_recompute: true,
        pixel_scale: PixelScale { mean: image.mean, std: image.std },
    }
}

/// An engine for so many sequences on one prompt of `options`, each of `tokens` tokens at most, and the sequences opened.
fn engine(options: &Options, model: &Model, processor: &Arc<Processor>, sequences: usize, tokens: usize) -> Engine {
    let pages = options.prompt.div_ceil(PAGE_TOKENS) + sequences * (tokens / PAGE_TOKENS + 2) + 8;
    let limits = EngineLimits { pages, prefill_chunk_tokens: 2048, sequences };
    let mut engine = Engine::new(model.clone(), processor.clone(), limits);
    let request = GenerateRequest {
        token_ids: prompt(options),
        sequences: (0..sequences as u64).collect(),
        stops: Stops { turn_tokens: tokens, total_tokens: tokens, ..Stops::default() },
        ..GenerateRequest::default()
    };
    engine.open(&request).expect("the engine was made for them");
    engine
}

/// Some text: what it says makes no difference to random weights.
fn prompt(options: &Options) -> Vec<u32> {
    (0..options.prompt as u32).map(|i| i * 31 % 700).collect()
}

/// How steps are launched.
#[derive(Clone, Copy, Debug)]
enum Launching {
    /// As graphs, the next one before the last one's tokens are read.
    Ahead,
    /// As graphs.
    Graphs,
    /// Kernel by kernel.
    Kernels,
}

/// Steps in which all sequences decode.
fn decode(options: &Options, learner: &Learner, processor: &Arc<Processor>, sequences: usize, launching: Launching) {
    let warm_up = 4;
    let tokens = 2 * (options.steps + warm_up);
    let engine = engine(options, learner.model(), processor, sequences, tokens);
    let mut engine = match launching {
        Launching::Ahead => engine,
        Launching::Graphs => engine.without_overlap(),
        Launching::Kernels => engine.without_graphs(),
    };
    let weights = learner.weights();
    let mut step = || engine.step(weights).expect("the engine works").len();
    while step() < sequences {}
    for _ in 0..warm_up {
        step();
    }
    let begin = Instant::now();
    let sampled: usize = (0..options.steps).map(|_| step()).sum();
    let seconds = begin.elapsed().as_secs_f64();
    say(
        "decode",
        json!({ "sequences": sequences, "keys": options.prompt, "launching": format!("{launching:?}"), "tokens": sampled,
                "step_ms": 1e3 * seconds / options.steps as f64, "tokens_per_second": sampled as f64 / seconds }),
    );
}

/// Samples tokens and computes their log-probabilities again as the trainer does.
fn one_policy(options: &Options, learner: &Learner, processor: &Arc<Processor>) -> Vec<Sample> {
    let sequences = options.sequences.iter().copied().max().unwrap_or(1);
    let each = options.tokens.div_ceil(sequences);
    let mut engine = engine(options, learner.model(), processor, sequences, each);
    let mut sampled: Vec<Vec<Sampled>> = vec![Vec::new(); sequences];
    let mut open = sequences;
    let begin = Instant::now();
    while open > 0 {
        for event in engine.step(learner.weights()).expect("the engine works") {
            sampled[event.sequence as usize].extend(event.token);
            if event.stopped.is_some() {
                engine.close(event.sequence);
                open -= 1;
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    drop(engine);
    let prompt = prompt(options);
    let sample = |sampled: &Vec<Sampled>| {
        let ids: Vec<u32> = prompt.iter().copied().chain(sampled.iter().map(|token| token.id)).collect();
        let trained = (0..ids.len()).map(|place| place >= prompt.len()).collect();
        Sample { ids, trained, images: Vec::new() }
    };
    let samples: Vec<Sample> = sampled.iter().map(sample).collect();
    let own: Vec<usize> = sampled.iter().map(Vec::len).collect();
    let (mut compared, mut differing) = (0, 0);
    let begin = Instant::now();
    for run in runs_by_tokens(&own, options.micro_batch) {
        let pack = Pack::new(&samples[run.clone()].iter().collect::<Vec<_>>(), Layout::of(processor));
        let found = learner.logprobs(&pack, &vec![1.0; pack.targets.len()]);
        let tokens = sampled[run].iter().flatten();
        differing += found.logprob.iter().zip(tokens).filter(|(a, b)| a.to_bits() != b.logprob.to_bits()).count();
        compared += pack.targets.len();
    }
    let again = begin.elapsed().as_secs_f64();
    say(
        "one_policy",
        json!({ "tokens": compared, "differing": differing, "rollout_seconds": seconds, "trainer_seconds": again }),
    );
    samples
}

/// Two updates of about `micro_batch` tokens each, and what was held at most beside what the plan says.
fn update(
    options: &Options,
    learner: &mut Learner,
    processor: &Arc<Processor>,
    samples: &[Sample],
    footprint: Footprint,
) {
    let tokens: Vec<usize> = samples.iter().map(|sample| sample.tokens().min(options.micro_batch)).collect();
    for run in runs_by_tokens(&tokens, options.micro_batch).into_iter().take(2) {
        let members: Vec<Sample> = samples[run].iter().map(|sample| cut(sample, options.micro_batch)).collect();
        let pack = Pack::new(&members.iter().collect::<Vec<_>>(), Layout::of(processor));
        let ones = vec![1.0; pack.targets.len()];
        let begin = Instant::now();
        learner.accumulate(&pack, &ones, LogprobKind::Raw, |_| {
            ones.iter().map(|one| -one / ones.len() as f32).collect::<Vec<f32>>()
        });
        wait(&*learner.model().backend);
        let passes = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let update = learner.update(1e-6);
        wait(&*learner.model().backend);
        say(
            "update",
            json!({ "tokens": pack.batch.tokens(), "passes_seconds": passes, "grad_norm": update.grad_norm,
                    "optimizer_seconds": begin.elapsed().as_secs_f64(),
                    "tokens_per_second": pack.batch.tokens() as f64 / passes }),
        );
    }
    let (model, settings) = (learner.model(), learner.settings());
    let plan = MemoryPlan::new(&Sizes {
        config: &model.config,
        max_pixels: 0,
        footprint,
        learner: settings.clone(),
        micro_batch_tokens: options.micro_batch,
        rollout: None,
        reference: None,
        judge: None,
    });
    say(
        "memory",
        json!({ "planned": plan.total() as f64, "held_at_most": model.backend.memory().map(|memory| memory.peak), }),
    );
}

/// The first tokens of a sample.
fn cut(sample: &Sample, tokens: usize) -> Sample {
    let kept = tokens.min(sample.ids.len());
    Sample { ids: sample.ids[..kept].to_vec(), trained: sample.trained[..kept].to_vec(), images: Vec::new() }
}
