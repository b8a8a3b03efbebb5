//! Why a data file cannot be read or written.

use std::io;
use std::path::PathBuf;

use super::forms::Foreign;
use crate::files::lines::LinesError;

/// Why a data file could not be read or written; each names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be opened, read or written.
    #[error("cannot {action} {path}: {source}; check that it exists, that you may, and that the disk has room")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder that it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that cannot be read as JSON lines.
    #[error(transparent)]
    Lines(#[from] LinesError),
    /// A line is not a JSON object.
    #[error("{path}:{line}: not a JSON object ({problem}); {remedy}")]
    Json {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the JSON parser says.
        problem: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A line has the form of another system.
    #[error("{path}:{line}: the row has the form of {}; {}", form.name, form.remedy)]
    Form {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Whose form it is, and the remedy.
        form: Foreign,
    },
    /// A key is missing or has a wrong value.
    #[error("{path}:{line}: key `{key}`: {problem}; {remedy}")]
    Key {
        /// The data file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as the file spells it.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A file has no line.
    #[error(
        "{path}: no sample in it; write one JSON object per line, or draw some with `thyme-engine data needle --out DIR`"
    )]
    Empty {
        /// The data file without lines.
        path: PathBuf,
    },
    /// A picture cannot be encoded as PNG, or its file cannot be written.
    #[error("cannot write the picture {path}: {problem}; check that the disk has room")]
    Picture {
        /// The file that the picture was to go to.
        path: PathBuf,
        /// What the encoder or the system says.
        problem: String,
    },
}
