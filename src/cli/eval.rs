//! `thyme-engine eval`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::device::Device;
use crate::checkpoint::{config, folder, processor, weights};
use crate::engine::{Engine, EngineLimits};
use crate::eval::{Report, evaluate};
use crate::model::Model;
use crate::ops::attention::PAGE_TOKENS;
use crate::recipe::Method;
use crate::rollout::engine_generator::EngineGenerator;
use crate::rollout::environment::Task;
use crate::rollout::registry;
use crate::rollout::reward::{RewardSet, RewardSettings};
use crate::train::dataset::Dataset;

/// Answer held-out tasks greedily, and score the answers.
#[derive(Debug, Args)]
#[command(after_help = "Example: thyme-engine eval --model runs/grpo_ats/checkpoint-30 --data needle --limit 256")]
pub struct EvalArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(long)]
    model: String,
    /// `needle` for the built-in task's held-out pictures, or a JSONL file in Thyme's RL form.
    #[arg(long, default_value = "needle")]
    data: String,
    /// How a task is answered: with tools, or directly.
    #[arg(long = "env", value_name = "NAME", default_value = "think_with_code",
        value_parser = PossibleValuesParser::new(registry::ENVIRONMENTS))]
    environment: String,
    /// Tasks to answer at most.
    #[arg(long, default_value_t = 256)]
    limit: usize,
    /// Sequences answered together.
    #[arg(long, default_value_t = 64)]
    max_num_seqs: usize,
    /// Tokens after the prompt that a sequence may have, observations included.
    #[arg(long, default_value_t = 1024)]
    max_total_tokens: usize,
    /// Where to write the report and the transcripts; only the terminal where absent.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Runs the command.
pub fn run(arguments: EvalArguments) -> anyhow::Result<()> {
    let tasks = tasks(&arguments.data, arguments.limit)?;
    let dir = folder::resolve(&arguments.model)?;
    let config = config::open(&dir)?;
    let processor = Arc::new(processor::open(&dir, &config)?);
    let backend = arguments.device.backend(&config)?;
    let model = Model::new(config, backend);
    let weights = weights::load(&model, &dir)?;
    let limit = toml::Value::from(arguments.max_total_tokens as i64);
    let limits = ["max_turn_tokens", "max_total_tokens"].map(|key| (key.to_owned(), limit.clone()));
    let python = || registry::tool("python", toml::Table::new());
    let environment = registry::environment(&arguments.environment, limits.into_iter().collect(), python)?;
    let longest = (2 * arguments.max_total_tokens).min(model.config.context_tokens);
    let pages = arguments.max_num_seqs * (longest / PAGE_TOKENS + 1);
    let limits = EngineLimits { pages, prefill_chunk_tokens: 2048, sequences: arguments.max_num_seqs };
    let mut engine = Engine::new(model, processor.clone(), limits);
    let mut generator = EngineGenerator { engine: &mut engine, weights: &weights };
    let rewards = RewardSet::new(&RewardSettings::default())?;
    let (report, groups) = evaluate(&mut generator, &processor, &*environment, &tasks, &rewards)?;
    print(&report);
    if let Some(output) = &arguments.output {
        std::fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
        let path = output.join("results.json");
        std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut lines = String::new();
        for transcript in groups.iter().flat_map(|group| &group.transcripts) {
            let task = &tasks[transcript.task];
            let line = serde_json::json!({
                "question": task.question, "solution": task.solution, "text": transcript.text(), "end": transcript.end.name(),
            });
            lines += &format!("{line}\n");
        }
        let path = output.join("samples.jsonl");
        std::fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn tasks(data: &str, limit: usize) -> anyhow::Result<Vec<Task>> {
    let dataset = match data {
        "needle" => Dataset::held_out_needle(),
        file => Dataset::from_files(&[PathBuf::from(file)], Method::Grpo, None)?,
    };
    let count = dataset.len().map_or(limit, |len| len.min(limit));
    Ok((0..count as u64).map(|number| dataset.task(number)).collect::<Result<_, _>>()?)
}

fn print(report: &Report) {
    println!("{:<16}{:>8}", "tasks", report.count);
    for (name, value) in &report.parts {
        println!("{name:<16}{value:>8.3}");
    }
    println!("{:<16}{:>8.3}", "reward", report.reward);
    println!("{:<16}{:>8.3}", "tool use", report.tool_use);
    println!("{:<16}{:>8.3}", "tool ok", report.tool_success);
    println!("{:<16}{:>8.1}", "tokens", report.tokens);
    for (name, count) in &report.ends {
        println!("{:<16}{count:>8}", format!("end {name}"));
    }
}
