//! A file of JSON lines, written line by line: what is done stays when the command is interrupted.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// An open output file.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Makes or empties `path`, which must not be the command's own `input`.
    pub fn create(path: &Path, input: &Path) -> anyhow::Result<Lines> {
        let is_input = matches!((path.canonicalize(), input.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if is_input {
            anyhow::bail!("--output {} is the input file; choose another", path.display());
        }
        let file = File::create(path)
            .with_context(|| format!("cannot create {}; give a file in a folder that exists", path.display()))?;
        Ok(Lines { path: path.to_owned(), file })
    }

    /// Writes one line.
    pub fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line).context("a reply cannot be written as JSON")?;
        text.push(b'\n');
        self.file.write_all(&text).with_context(|| {
            format!("cannot write {}; free some space or choose another --output", self.path.display())
        })
    }
}

/// Writes to the terminal or a pipe; false when its reader has gone, which is no error.
pub fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}
