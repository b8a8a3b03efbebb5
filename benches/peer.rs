//! The engine's side of tools/compare_speed.sh: rollout and update on a checkpoint and prompts from a file, measured as tools/peer_speed.py
//! measures transformers and PyTorch. Prints one JSON line.
//!
//! Rollout: every sequence draws exactly N tokens at temperature 1; prefill and vision tower are inside the time, image files and chat
//! templates are not. Update: forward, backward and AdamW on those sequences, one step for each batch; counted are all tokens.

#[path = "policy/rollout.rs"]
mod rollout;
#[path = "policy/update.rs"]
mod update;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use rollout::{Policy, Rolled, roll_out};
use serde_json::{Value, json};
use thyme_engine::rollout::environment::Task;
use thyme_engine::tasks::jsonl;
use thyme_engine::train::sample::{Layout, Sample};

/// Rollout and update speed of thyme-engine.
#[derive(Parser)]
struct Arguments {
    /// Checkpoint folder.
    #[arg(long)]
    model: Option<String>,
    /// Tasks in Thyme's RL form.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Tokens drawn for each sequence.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Sequences for each prompt.
    #[arg(long, default_value_t = 8)]
    group: usize,
    /// Sequences decoded, and updated on, together.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Runs, of which the best counts.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// No gradient for the vision tower.
    #[arg(long)]
    freeze_vision: bool,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    // A plain `cargo bench` has no peer to compare with.
    let (Some(model), Some(prompts)) = (&arguments.model, &arguments.prompts) else {
        println!("peer: give --model and --prompts, or run tools/compare_speed.sh");
        return;
    };
    println!("{}", rayon::scope(|_| measure(&arguments, model, prompts)));
}

fn measure(arguments: &Arguments, model: &str, prompts: &std::path::Path) -> Value {
    let Arguments { max_new_tokens: tokens, group, batch, repeats, freeze_vision, .. } = *arguments;
    let policy = Policy::open(model);
    let records = jsonl::read(prompts).expect("a file of tasks");
    let tasks: Vec<Task> = records.into_iter().map(|record| Task::of_record(record).expect("a task")).collect();
    let prompts = policy.prompts(&tasks);
    let mut engine = policy.engine(&prompts, tokens, batch);

    let few = &prompts[..prompts.len().min(batch.div_ceil(group))];
    roll_out(&mut engine, &policy.weights, few, group, tokens.min(4));
    let mut rolled: Vec<Rolled> = Vec::new();
    let rollout_seconds = best_seconds(repeats, || {
        engine.forget_images();
        rolled = roll_out(&mut engine, &policy.weights, &prompts, group, tokens);
    });
    let drawn: usize = rolled.iter().map(|rolled| rolled.drawn.len()).sum();

    let samples = update::samples(&policy, &engine, &prompts, &rolled);
    let layout = Layout::of(&policy.processor);
    let trained: usize = samples.iter().map(Sample::tokens).sum();
    let mut learner = update::learner(policy, freeze_vision);
    update::update(&mut learner, layout, &samples[..samples.len().min(batch)], batch);
    let update_seconds = best_seconds(repeats, || update::update(&mut learner, layout, &samples, batch));

    let row = |tokens: usize, seconds: f64| json!({"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens as f64 / seconds});
    json!({
        "peer": format!("thyme-engine {}", env!("CARGO_PKG_VERSION")),
        "model": model,
        "prompts": prompts.len(),
        "prompt_tokens": prompts.iter().map(|prompt| prompt.token_ids.len()).sum::<usize>(),
        "group": group,
        "batch": batch,
        "max_new_tokens": tokens,
        "freeze_vision": freeze_vision,
        "bfloat16": {"rollout": row(drawn, rollout_seconds), "update": row(trained, update_seconds)},
    })
}

fn best_seconds(repeats: usize, mut work: impl FnMut()) -> f64 {
    let one = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..repeats.max(1)).map(one).fold(f64::INFINITY, f64::min)
}
