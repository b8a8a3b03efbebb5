//! Tokens a second of the engine on the shipped tiny model: 96 sequences (12 tasks, groups of 8), as in a step of recipes/grpo_ats.toml.

#[path = "policy/rollout.rs"]
mod rollout;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rollout::{Policy, roll_out};
use thyme_engine::train::dataset::Dataset;

const TASKS: u64 = 12;
const GROUP: usize = 8;
const TOKENS: usize = 64;

fn decode(criterion: &mut Criterion) {
    let policy = Policy::open("recipes/tiny");
    let dataset = Dataset::held_out_needle();
    let tasks: Vec<_> = (0..TASKS).map(|number| dataset.task(number).expect("the built-in task")).collect();
    let prompts = policy.prompts(&tasks);
    let batch = TASKS as usize * GROUP;
    let mut engine = policy.engine(&prompts, TOKENS, batch);
    let mut group = criterion.benchmark_group("decode");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(10))
        .throughput(Throughput::Elements((batch * TOKENS) as u64));
    group.bench_function("rollout_96_sequences", |bencher| {
        bencher.iter(|| {
            engine.forget_images();
            let rolled = roll_out(&mut engine, &policy.weights, &prompts, GROUP, TOKENS);
            let sampled = rolled.iter().map(|rolled| (rolled.prompt, rolled.sampled.len()));
            black_box(sampled.max())
        });
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
