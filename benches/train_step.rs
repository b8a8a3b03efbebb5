//! Tokens a second of an update on the shipped tiny model: what 96 sequences sampled, forward, backward and AdamW.

#[path = "measure/clock.rs"]
mod clock;
#[path = "policy/rollout.rs"]
mod rollout;
#[path = "measure/timer.rs"]
mod timer;
#[path = "policy/update.rs"]
mod update;

use std::time::Duration;

use clock::timed;
use rollout::{Policy, roll_out};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::sample::{Layout, Sample};
use timer::median_seconds;

const TASKS: u64 = 12;
const GROUP: usize = 8;
const TOKENS: usize = 64;
const BUDGET: Duration = Duration::from_secs(5);

fn main() {
    let dataset = Dataset::held_out_needle(None);
    let tasks: Vec<_> = (0..TASKS).map(|number| dataset.task(number).expect("the built-in task")).collect();
    let batch = TASKS as usize * GROUP;
    println!("{:<34}{:>12}{:>12}{:>16}", "train_step", "tokens", "seconds", "tokens/s");
    for (name, freeze_vision) in [("the vision tower frozen", true), ("all parameters", false)] {
        let policy = Policy::open("recipes/tiny");
        let prompts = policy.prompts(&tasks);
        let layout = Layout::of(&policy.processor);
        let mut engine = policy.engine(&prompts, TOKENS, batch);
        let rolled = roll_out(&mut engine, &policy.weights, &prompts, GROUP, TOKENS);
        let samples = update::samples(&policy, &engine, &prompts, &rolled);
        let mut learner = update::learner(policy, freeze_vision);
        let tokens: usize = samples.iter().map(Sample::tokens).sum();
        let seconds = median_seconds(BUDGET, || timed(|| update::update(&mut learner, layout, &samples, batch)));
        println!("{name:<34}{tokens:>12}{seconds:>12.3}{:>16.0}", tokens as f64 / seconds);
    }
}
