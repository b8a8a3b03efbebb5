//! The binary: the command line with the environments, tools and rewards that ship.

use std::process::ExitCode;

use thyme_engine::rollout::registry::Registry;

fn main() -> ExitCode {
    thyme_engine::cli::main(Registry::default())
}
