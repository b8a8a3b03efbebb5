//! `thyme-engine isolated`: the child's side of work that may end a process. The commands start it; nobody calls it by hand.

use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::engine::sampling::grammar::{Form, Grammars, Vocabulary};
use crate::isolated::{Isolated, serve_jobs};
use crate::prompt::TemplateWork;

/// This program, even where its file was replaced since.
pub const THIS_PROGRAM: &str = "/proc/self/exe";
/// Seconds that a job may take.
const LIMIT_SECONDS: u64 = 4;
/// Children that compile grammars: one for any form, and one for small forms.
const COMPILERS: usize = 2;

/// Do jobs for another process of this program.
#[derive(Debug, Args)]
pub struct IsolatedArguments {
    /// What the jobs are.
    #[arg(value_enum)]
    work: Work,
}

/// What a child does.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Work {
    /// Renders chat templates.
    Templates,
    /// Compiles grammars, to see whether they can be.
    Grammars,
}

/// Children of this program that render chat templates.
pub fn renderer() -> Arc<Isolated> {
    renderer_of(Path::new(THIS_PROGRAM))
}

/// Children of a build of this program that render chat templates.
pub fn renderer_of(program: &Path) -> Arc<Isolated> {
    // As many as a server makes prompts ready at once.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    children(program, "templates", cores + 1)
}

/// Children of a build of this program that compile grammars, once they are told a vocabulary.
pub fn compiler_of(program: &Path) -> Arc<Isolated> {
    children(program, "grammars", COMPILERS)
}

fn children(program: &Path, work: &str, count: usize) -> Arc<Isolated> {
    Arc::new(Isolated::new(program.to_owned(), &["isolated", work], count, LIMIT_SECONDS))
}

/// Runs the command.
pub fn run(arguments: &IsolatedArguments) -> anyhow::Result<()> {
    match arguments.work {
        Work::Templates => serve_jobs(|_| Ok(TemplateWork::default()), TemplateWork::render)?,
        Work::Grammars => serve_jobs(grammars, check)?,
    }
    Ok(())
}

fn grammars(vocabulary: Value) -> Result<Grammars, String> {
    let vocabulary: Vocabulary = serde_json::from_value(vocabulary).map_err(|error| error.to_string())?;
    Grammars::of_vocabulary(&vocabulary)
}

fn check(grammars: &Grammars, form: Value) -> Result<Value, String> {
    let form: Form = serde_json::from_value(form).map_err(|error| error.to_string())?;
    grammars.compile(&form)?;
    Ok(Value::Null)
}
