//! The command line: one file a subcommand.

pub mod device;
pub mod eval;
pub mod train;

use clap::{Parser, Subcommand};

/// Trains and runs vision-language models that think with images.
#[derive(Debug, Parser)]
#[command(name = "thyme-engine", version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArguments),
    Eval(eval::EvalArguments),
}

impl Arguments {
    /// Does what the command line says.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Train(arguments) => train::run(arguments),
            Command::Eval(arguments) => eval::run(arguments),
        }
    }
}
