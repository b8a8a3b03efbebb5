//! The binary: parse, run, print the error chain.

use std::process::ExitCode;

use clap::Parser;
use thyme_engine::cli::Arguments;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
