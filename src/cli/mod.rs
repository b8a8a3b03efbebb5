//! The command line: one file a subcommand. [`main`] is the whole program; with a [`Registry`] of one's own it is a program that knows other
//! environments, tools and rewards.

mod allocator;
mod choices;
mod inference_session;
mod loaded_checkpoint;
mod openai_batch;
mod ordered_writer;
mod pass_rates;
pub mod device;
mod failure;
mod generation_config;
pub mod interrupt;
pub mod isolated;
mod jsonl;
mod requests;
mod sampling;
mod trace;

pub mod train;

pub mod batch;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod init;
pub mod sandbox;
pub mod score;
pub mod serve;
mod sft_output;
pub mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::rollout::registry::Registry;

/// Trains and runs vision-language models that think with images.
#[derive(Debug, Parser)]
#[command(
    name = "thyme-engine",
    version,
    about,
    after_help = "Example: thyme-engine train recipes/grpo_ats.toml\n\nEach command explains itself: thyme-engine score --help"
)]
pub struct Arguments {
    /// Write what ran when, thread by thread, in Chrome's trace format; Perfetto (ui.perfetto.dev) shows it.
    #[arg(long, global = true, value_name = "FILE")]
    trace: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArguments),
    Eval(eval::EvalArguments),
    Generate(generate::GenerateArguments),
    Batch(batch::BatchArguments),
    Score(score::ScoreArguments),
    Serve(serve::ServeArguments),
    Sandbox(sandbox::SandboxArguments),
    Tools(tools::ToolsArguments),
    Data(data::DataArguments),
    Init(init::InitArguments),
    Doctor(doctor::DoctorArguments),
    #[command(hide = true)]
    Isolated(isolated::IsolatedArguments),
}

/// Parses the command line and does what it says; recipes and `--env` may name what is in `registry`. An error is printed with its causes.
pub fn main(registry: Registry) -> ExitCode {
    failure::set_panic_hook();
    match Arguments::parse().run(&Arc::new(registry)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", failure::message(&error));
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    /// Does what the command line says.
    pub fn run(self, registry: &Arc<Registry>) -> anyhow::Result<()> {
        let _trace = trace::start(self.trace.as_deref())?;
        match self.command {
            Command::Train(arguments) => train::run(arguments, registry),
            Command::Eval(arguments) => device::on_workers(|| eval::run(arguments, registry)),
            Command::Generate(arguments) => device::on_workers(|| generate::run(&arguments, registry)),
            Command::Batch(arguments) => batch::run(&arguments, registry),
            Command::Score(arguments) => score::run(&arguments),
            Command::Serve(arguments) => serve::run(arguments, registry),
            Command::Sandbox(arguments) => sandbox::run(&arguments),
            Command::Tools(arguments) => tools::run(&arguments, registry),
            Command::Data(arguments) => data::run(arguments),
            Command::Init(arguments) => init::run(&arguments),
            Command::Doctor(arguments) => doctor::run(&arguments),
            Command::Isolated(arguments) => isolated::run(&arguments),
        }
    }
}
