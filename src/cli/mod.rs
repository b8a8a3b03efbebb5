//! The command line: one file a subcommand.

mod allocator;
mod choices;
mod inference_session;
mod openai_batch;
mod ordered_writer;
pub mod device;
mod generation_config;
pub mod interrupt;
pub mod isolated;
mod jsonl;
mod checkpoint;
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

use std::path::PathBuf;

use clap::{Parser, Subcommand};

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
    Data(data::DataArguments),
    Init(init::InitArguments),
    Doctor(doctor::DoctorArguments),
    #[command(hide = true)]
    Isolated(isolated::IsolatedArguments),
}

impl Arguments {
    /// Does what the command line says.
    pub fn run(self) -> anyhow::Result<()> {
        let _trace = trace::start(self.trace.as_deref())?;
        match self.command {
            Command::Train(arguments) => train::run(arguments),
            Command::Eval(arguments) => device::on_workers(|| eval::run(arguments)),
            Command::Generate(arguments) => device::on_workers(|| generate::run(&arguments)),
            Command::Batch(arguments) => batch::run(&arguments),
            Command::Score(arguments) => score::run(&arguments),
            Command::Serve(arguments) => serve::run(arguments),
            Command::Sandbox(arguments) => sandbox::run(&arguments),
            Command::Data(arguments) => data::run(arguments),
            Command::Init(arguments) => init::run(&arguments),
            Command::Doctor(arguments) => doctor::run(&arguments),
            Command::Isolated(arguments) => isolated::run(&arguments),
        }
    }
}
