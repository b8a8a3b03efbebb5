//! `metrics.jsonl` and TensorBoard's event file: a run's numbers, flushed step by step.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::events::{self, Events};
use crate::files::open::{append_own, is_there};

/// Appends a run's numbers.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    events: Events,
}

impl Metrics {
    /// Opens `dir/metrics.jsonl` to append, and a new event file beside it, in which step `first` comes next. Event files of an earlier
    /// run, whose `metrics.jsonl` is gone, are removed.
    pub fn open(dir: &Path, first: u64) -> io::Result<Metrics> {
        let path = dir.join("metrics.jsonl");
        if !is_there(&path) {
            events::remove_all(dir)?;
        }
        Ok(Metrics { file: append_own(&path)?, events: Events::create(dir, first)? })
    }

    /// Writes a step to both: in `metrics.jsonl` one line of `step`, then each name with its value. Values that are not finite become
    /// null there and are left out of the event file.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".to_owned(), step.into());
        line.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        self.file.write_all(format!("{}\n", serde_json::Value::Object(line)).as_bytes())?;
        self.events.log(step, values)
    }
}
