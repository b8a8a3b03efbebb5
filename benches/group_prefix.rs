//! What a group costs until it speaks: seconds and pages from opening 8 sequences on a prompt of 2,000 tokens, most of them a picture's, until
//! each has sampled its first token, beside a group of 1. The two are measured in turn, each on an engine that has seen nothing.
//!
//!     cargo bench --bench group_prefix

#[path = "policy/wide.rs"]
mod wide;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use thyme_engine::checkpoint::{Checkpoint, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::engine::request::{GenerateRequest, Stops};
use thyme_engine::engine::{Engine, EngineLimits};
use thyme_engine::model::Model;
use thyme_engine::model::parameters::Weights;
use thyme_engine::prompt::{Grid, PreparedImage, Processor};

const GROUP: u64 = 8;
/// Patches of the picture's sides: 1,900 tokens of two by two.
const PATCHES: (u32, u32) = (76, 100);
/// Tokens of text, half before and half behind.
const TEXT: usize = 110;
const REPEATS: usize = 5;
/// Prompt tokens of a forward, with room for all and for a part.
const CHUNKS: [usize; 2] = [2048, 512];

struct Policy {
    model: Model,
    weights: Weights,
    processor: Arc<Processor>,
}

fn main() {
    let model = Model::new(wide::config(), Arc::new(Cpu::new()));
    let weights = init::random_weights(&model, 0);
    let tiny = Checkpoint::open("recipes/tiny").expect("a config");
    let processor = Arc::new(tiny.processor(None).expect("a tokenizer"));
    let policy = Policy { model, weights, processor };
    println!("{:<24}{:>14}{:>14}{:>9}{:>14}{:>14}", "prompt tokens a step", "1: s", "8: s", "", "1: pages", "8: pages");
    for chunk in CHUNKS {
        rayon::scope(|_| compare(&policy, chunk));
    }
}

/// Prints the medians of runs in turn, and of the ratios of neighbours.
fn compare(policy: &Policy, chunk: usize) {
    let runs: Vec<[(f64, usize); 2]> =
        (0..REPEATS).map(|_| [1, GROUP].map(|members| measure(policy, members, chunk))).collect();
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [one, group] = [0, 1].map(|which| median(runs.iter().map(|run| run[which].0).collect()));
    let ratio = median(runs.iter().map(|[one, group]| group.0 / one.0).collect());
    let [one_pages, group_pages] = runs[0].map(|(_, pages)| pages);
    println!("{chunk:<24}{one:>14.3}{group:>14.3}{ratio:>8.3}x{one_pages:>14}{group_pages:>14}");
}

/// Seconds until each member has sampled, and the pages that they hold then.
fn measure(policy: &Policy, members: u64, chunk: usize) -> (f64, usize) {
    let limits = EngineLimits { pages: 400, prefill_chunk_tokens: chunk, sequences: GROUP as usize };
    let mut engine = Engine::new(policy.model.clone(), policy.processor.clone(), limits);
    let request = request(policy, members);
    let began = Instant::now();
    engine.open(&request).expect("room for the group");
    let mut sampled = BTreeSet::new();
    while sampled.len() < members as usize {
        let events = engine.step(&policy.weights).expect("a step");
        sampled.extend(events.iter().map(|event| event.sequence));
    }
    let seconds = began.elapsed().as_secs_f64();
    let (free, pages) = engine.pages();
    (seconds, pages - free)
}

fn request(policy: &Policy, members: u64) -> GenerateRequest {
    let vision = policy.model.config.vision.as_ref().expect("a policy that reads pictures");
    let grid = Grid { t: 1, h: PATCHES.0, w: PATCHES.1 };
    let patch_bytes = 3 * vision.patch * vision.patch;
    let image = PreparedImage {
        patches: (0..grid.patches() * patch_bytes).map(|i| (i * 31 % 251) as u8).collect(),
        grid,
        original_width: PATCHES.1 * vision.patch as u32,
        original_height: PATCHES.0 * vision.patch as u32,
        digest: 1 << 100,
        resized_width: PATCHES.1 as usize * vision.patch,
        resized_height: PATCHES.0 as usize * vision.patch,
    };
    let text = |from: usize| (from..from + TEXT / 2).map(|i| (i * 37 % 700) as u32);
    let pads = std::iter::repeat_n(policy.model.config.image_pad, grid.tokens(vision.merge));
    GenerateRequest {
        token_ids: text(0).chain(pads).chain(text(TEXT)).collect(),
        images: vec![Arc::new(image)],
        sequences: (0..members).collect(),
        stops: Stops { turn_tokens: 64, total_tokens: 64, ..Stops::default() },
        ..GenerateRequest::default()
    }
}
