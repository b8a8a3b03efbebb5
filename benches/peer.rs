//! The engine's side of tools/compare_speed.sh: rollout and update on a checkpoint and prompts from a file, measured as tools/peer_speed.py
//! measures transformers and PyTorch. Prints one JSON line.
//!
//! Rollout: every sequence samples exactly N tokens at temperature 1; prefill and vision tower are inside the time, image files and chat
//! templates are not. Update: forward, backward and AdamW on those sequences, one step for each batch; counted are all tokens. Rollout with
//! tools: the recipe's own, with adaptive temperature; counted are the sampled tokens, while running the code in the sandbox and preparing
//! the images that it makes are inside the time too.

#[path = "policy/rollout.rs"]
mod rollout;
#[path = "policy/rollout_with_tools.rs"]
mod rollout_with_tools;
#[path = "policy/update.rs"]
mod update;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use rollout::{Policy, roll_out};
use rollout_with_tools::{RolloutWithTools, sampled_tokens};
use serde_json::{Value, json};
use thyme_engine::rollout::task::Task;
use thyme_engine::tasks::jsonl;
use thyme_engine::train::sample::{Layout, Sample};

/// Rollout and update speed of thyme-engine.
#[derive(Parser)]
struct Arguments {
    /// Folder of the checkpoint that is measured.
    #[arg(long)]
    model: Option<String>,
    /// Tasks in Thyme's RL form.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Tokens sampled for each sequence.
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
    /// A GRPO recipe, to roll out with tools.
    #[arg(long, requires = "tasks")]
    recipe: Option<PathBuf>,
    /// The recipe's tasks, with solutions.
    #[arg(long, requires = "recipe")]
    tasks: Option<PathBuf>,
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

fn measure(arguments: &Arguments, model: &str, prompts: &Path) -> Value {
    let Arguments { max_new_tokens: tokens, group, batch, repeats, freeze_vision, .. } = *arguments;
    let policy = Policy::open(model);
    let prompts = policy.prompts(&read_tasks(prompts));
    let mut engine = policy.engine(&prompts, tokens, batch);

    let few = &prompts[..prompts.len().min(batch.div_ceil(group))];
    roll_out(&mut engine, &policy.weights, few, group, tokens.min(4));
    let (rollout_seconds, rolled) = best_of(repeats, || {
        engine.forget_images();
        roll_out(&mut engine, &policy.weights, &prompts, group, tokens)
    });
    let sampled = rolled.iter().map(|rolled| rolled.sampled.len()).sum();
    let mut parts = json!({"rollout": row(sampled, rollout_seconds)});
    if let (Some(recipe), Some(tasks)) = (&arguments.recipe, &arguments.tasks) {
        parts["rollout_with_tools"] = measure_with_tools(repeats, recipe, &policy, &read_tasks(tasks));
    }

    let samples = update::samples(&policy, &engine, &prompts, &rolled);
    let layout = Layout::of(&policy.processor);
    let trained = samples.iter().map(Sample::tokens).sum();
    let mut learner = update::learner(policy, freeze_vision);
    update::update(&mut learner, layout, &samples[..samples.len().min(batch)], batch);
    let (update_seconds, ()) = best_of(repeats, || update::update(&mut learner, layout, &samples, batch));
    parts["update"] = row(trained, update_seconds);

    json!({
        "peer": format!("thyme-engine {}", env!("CARGO_PKG_VERSION")),
        "model": model,
        "prompts": prompts.len(),
        "prompt_tokens": prompts.iter().map(|prompt| prompt.token_ids.len()).sum::<usize>(),
        "group": group,
        "batch": batch,
        "max_new_tokens": tokens,
        "freeze_vision": freeze_vision,
        "bfloat16": parts,
    })
}

fn read_tasks(file: &Path) -> Vec<Task> {
    let records = jsonl::read(file).expect("a file of tasks");
    records.into_iter().map(|record| Task::of_record(record).expect("a task")).collect()
}

fn measure_with_tools(repeats: usize, recipe: &Path, policy: &Policy, tasks: &[Task]) -> Value {
    let mut rollout = RolloutWithTools::open(recipe, policy, tasks);
    let (seconds, groups) = best_of(repeats, || rollout.run(policy));
    let mut row = row(sampled_tokens(&groups), seconds);
    row.as_object_mut().expect("a row").extend(rollout.counts(&groups));
    row
}

fn row(tokens: usize, seconds: f64) -> Value {
    json!({"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens as f64 / seconds})
}

/// The seconds of the fastest run, and what the last one gave. All runs sample the same.
fn best_of<T>(repeats: usize, mut work: impl FnMut() -> T) -> (f64, T) {
    let mut timed = || {
        let start = Instant::now();
        let given = work();
        (start.elapsed().as_secs_f64(), given)
    };
    (1..repeats).fold(timed(), |(best, _), _| {
        let (seconds, given) = timed();
        (best.min(seconds), given)
    })
}
