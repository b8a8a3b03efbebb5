//! `eval --write-pass-rates`: the rows of a data file with the share of right answers to each.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value};

use super::jsonl::JsonlWriter;
use crate::eval::Evaluation;
use crate::eval::group_report::pass_rate;
use crate::files::lines::JsonLines;
use crate::files::open::is_there;
use crate::train::dataset::PASS_RATE;

/// The file that is written, and the one whose rows it takes.
pub struct PassRates {
    rows: JsonlWriter,
    data: PathBuf,
}

impl PassRates {
    /// Begins the file `path`, which stands beside `data`: the paths of pictures are relative to both.
    pub fn open(path: &Path, data: &Path) -> anyhow::Result<PassRates> {
        anyhow::ensure!(
            is_there(data),
            "--write-pass-rates needs rows: give --data a JSONL file; it is {}",
            data.display()
        );
        let folder = |file: &Path| {
            let absolute = std::path::absolute(file)?;
            absolute.with_file_name("").canonicalize()
        };
        let (own, other) = (folder(path), folder(data).context("--data")?);
        anyhow::ensure!(
            own.is_ok_and(|own| own == other),
            "--write-pass-rates {}: the paths of pictures are relative to the file; give one in {}",
            path.display(),
            other.display()
        );
        Ok(PassRates { rows: JsonlWriter::create(path, data)?, data: data.to_owned() })
    }

    /// Writes all rows. Those that were answered get the column `pass_rate`, null where no answer was scored; the others stay as they are.
    pub fn write(mut self, evaluation: &Evaluation) -> anyhow::Result<()> {
        let mut lines = JsonLines::open(&self.data)?;
        let mut measured = evaluation.scores.iter().map(|scores| pass_rate(scores));
        let (mut rows, mut with_rate) = (0, 0);
        while let Some(line) = lines.next_line()? {
            let mut row: Map<String, Value> = serde_json::from_slice(line.json)
                .with_context(|| format!("{}:{}", self.data.display(), line.number))?;
            if let Some(rate) = measured.next() {
                row.insert(PASS_RATE.to_owned(), rate.into());
                with_rate += usize::from(!rate.is_nan());
            }
            self.rows.write(&row)?;
            rows += 1;
        }
        eprintln!("{with_rate} of {rows} rows have a pass rate of this model");
        Ok(())
    }
}
