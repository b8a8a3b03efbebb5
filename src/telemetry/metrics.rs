//! `metrics.jsonl`: one object a step, appended and flushed line by line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Appends a run's numbers.
#[derive(Debug)]
pub struct Metrics {
    file: File,
}

impl Metrics {
    /// Opens `dir/metrics.jsonl` to append.
    pub fn open(dir: &Path) -> io::Result<Metrics> {
        let file = OpenOptions::new().create(true).append(true).open(dir.join("metrics.jsonl"))?;
        Ok(Metrics { file })
    }

    /// Writes one line: `step`, then each name with its value; values that are not finite become null.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".to_owned(), step.into());
        line.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        writeln!(self.file, "{}", serde_json::Value::Object(line))
    }
}
