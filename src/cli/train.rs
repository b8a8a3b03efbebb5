//! `thyme-engine train`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::device::Device;
use crate::recipe::Method;
use crate::recipe::layers;
use crate::recipe::plan::Plan;
use crate::train::{Session, grpo, sft};

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
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
}

/// Runs the command.
pub fn run(arguments: TrainArguments) -> anyhow::Result<()> {
    let plan = Plan::new(layers::load(&arguments.recipe, &arguments.settings)?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let session = Session { backend: arguments.device.backend(), resume: arguments.resume, stop };
    match plan.recipe.method {
        Method::Sft => sft::train(&plan, &session)?,
        Method::Grpo => grpo::train(&plan, &session)?,
    }
    Ok(())
}
