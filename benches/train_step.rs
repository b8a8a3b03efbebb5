//! Tokens a second of an update on the shipped tiny model: what 96 sequences sampled, forward, backward and AdamW.

#[path = "policy/rollout.rs"]
mod rollout;
#[path = "policy/update.rs"]
mod update;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rollout::{Policy, roll_out};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::sample::{Layout, Sample};

const TASKS: u64 = 12;
const GROUP: usize = 8;
const TOKENS: usize = 64;

fn train_step(criterion: &mut Criterion) {
    let dataset = Dataset::held_out_needle();
    let tasks: Vec<_> = (0..TASKS).map(|number| dataset.task(number).expect("the built-in task")).collect();
    let batch = TASKS as usize * GROUP;
    let mut group = criterion.benchmark_group("train_step");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (name, freeze_vision) in [("frozen_vision", true), ("all_parameters", false)] {
        let policy = Policy::open("recipes/tiny");
        let prompts = policy.prompts(&tasks);
        let layout = Layout::of(&policy.processor);
        let mut engine = policy.engine(&prompts, TOKENS, batch);
        let rolled = roll_out(&mut engine, &policy.weights, &prompts, GROUP, TOKENS);
        let samples = update::samples(&policy, &engine, &prompts, &rolled);
        let mut learner = update::learner(policy, freeze_vision);
        let tokens: usize = samples.iter().map(Sample::tokens).sum();
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(name, |bencher| bencher.iter(|| update::update(&mut learner, layout, &samples, batch)));
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
