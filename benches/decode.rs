//! Tokens a second of the engine on the shipped tiny model: 96 sequences (12 tasks, groups of 8), as in a step of recipes/grpo_ats.toml.

#[path = "measure/clock.rs"]
mod clock;
#[path = "policy/rollout.rs"]
mod rollout;
#[path = "measure/timer.rs"]
mod timer;

use std::time::Duration;

use clock::timed;
use rollout::{Policy, roll_out};
use thyme_engine::train::dataset::Dataset;
use timer::median_seconds;

const TASKS: u64 = 12;
const GROUP: usize = 8;
const TOKENS: usize = 64;
const BUDGET: Duration = Duration::from_secs(5);

fn main() {
    let policy = Policy::open("recipes/tiny");
    let dataset = Dataset::held_out_needle(None);
    let tasks: Vec<_> = (0..TASKS).map(|number| dataset.task(number).expect("the built-in task")).collect();
    let prompts = policy.prompts(&tasks);
    let batch = TASKS as usize * GROUP;
    let mut engine = policy.engine(&prompts, TOKENS, batch);
    let mut sampled = 0;
    let seconds = median_seconds(BUDGET, || {
        timed(|| {
            engine.forget_images();
            let rolled = roll_out(&mut engine, &policy.weights, &prompts, GROUP, TOKENS);
            sampled = rolled.iter().map(|rolled| rolled.sampled.len()).sum();
            rolled.iter().map(|rolled| rolled.prompt).max()
        })
    });
    println!("{:<34}{:>12}{:>12}{:>16}", "decode", "tokens", "seconds", "tokens/s");
    println!("{:<34}{sampled:>12}{seconds:>12.3}{:>16.0}", "rollout of 96 sequences", sampled as f64 / seconds);
}
