//! `thyme-engine train`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::device::{Device, on_workers};
use super::interrupt::raise_on_interrupt;
use super::isolated::renderer;
use crate::recipe::plan::Plan;
use crate::recipe::{Method, ReportTo, layers};
use crate::rollout::registry::Registry;
use crate::telemetry::memory::readable_bytes;
use crate::telemetry::wandb;
use crate::train::check::check_data;
use crate::train::memory_plan::MemoryPlan;
use crate::train::sizes::fit_to_memory;
use crate::train::{Session, dpo, grpo, sft};

/// Train as a recipe says.
#[derive(Debug, Args)]
#[command(after_help = "Example: thyme-engine train recipes/grpo_ats.toml --set training.max_steps=10")]
pub struct TrainArguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Change a key of the recipe.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Go on from the newest checkpoint of the run folder.
    #[arg(long)]
    resume: bool,
    /// Start over in a run folder that holds checkpoints: they are removed.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Show the plan and the memory that it needs; load nothing.
    #[arg(long)]
    dry_run: bool,
    /// Look at every row of the data files, pictures too, and name those that cannot be used.
    #[arg(long, requires = "dry_run")]
    check_data: bool,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Runs the command.
pub fn run(arguments: TrainArguments, registry: &Arc<Registry>) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    if !arguments.dry_run {
        raise_on_interrupt(stop.clone());
    }
    let mut plan = Plan::new(layers::load(&arguments.recipe, &arguments.settings)?, registry)?.rendered_by(renderer());
    if plan.recipe.training.report_to.contains(&ReportTo::Wandb) {
        wandb::check()?;
    }
    let device = arguments.device.open(&plan.checkpoint.config)?;
    let available = device.available_bytes()?;
    let processor = plan.processor()?;
    let memory = fit_to_memory(&mut plan, &processor, device.footprint(), available);
    if arguments.dry_run {
        show(&plan, &memory, available);
    }
    if arguments.check_data {
        check(&plan)?;
    }
    available.map_or(Ok(()), |available| memory.check(available))?;
    if arguments.dry_run {
        return Ok(());
    }
    let judge_backend = plan
        .judge
        .as_ref()
        .map(|judge| arguments.device.open(&judge.config)?.backend(&judge.config, memory.judge_arena()));
    let session = Session {
        judge_backend: judge_backend.transpose()?,
        backend: device
            .backend(&plan.checkpoint.config, available.map_or(memory.arena(), |most| most.min(memory.arena())))?,
        planned_bytes: memory.total(),
        gpu_sensors: device.gpu_sensors,
        resume: arguments.resume,
        overwrite: arguments.overwrite,
        stop,
    };
    on_workers(|| match plan.recipe.method {
        Method::Sft => sft::train(&plan, &session),
        Method::Grpo => grpo::train(&plan, &session),
        Method::Dpo => dpo::train(&plan, &session),
    })?;
    Ok(())
}

/// Names the rows that cannot be used.
fn check(plan: &Plan) -> anyhow::Result<()> {
    let checked = check_data(plan)?;
    for problem in &checked.unusable {
        println!("{problem}");
    }
    let (unusable, rows) = (checked.unusable.len(), checked.rows);
    anyhow::ensure!(unusable == 0, "{unusable} of {rows} rows of the data files cannot be used; they are named above");
    println!("{:<32}{rows:>14} rows, all of which can be used", "data");
    Ok(())
}

fn show(plan: &Plan, memory: &MemoryPlan, available: Option<u64>) {
    println!("{}\n", plan.recipe.to_toml().trim_end());
    println!("{:<32}{}", "start", plan.checkpoint.dir.display());
    println!("{:<32}{}", "run folder", plan.run_dir().display());
    print!("{memory}");
    if let Some(available) = available {
        println!("{:<32}{:>14}", "available", readable_bytes(u128::from(available)));
    }
}
