//! Where a run's numbers go, flushed step by step: `metrics.jsonl`, and as the recipe says TensorBoard's event file and Weights & Biases.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::events::{self, Events};
use super::wandb::Wandb;
use crate::files::open::{append_own, is_there};

/// Appends a run's numbers.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    events: Option<Events>,
    wandb: Option<Wandb>,
}

impl Metrics {
    /// Opens `dir/metrics.jsonl` to append, and where `has_events` a new event file beside it, in which step `first` comes next. Event files of
    /// an earlier run, whose `metrics.jsonl` is gone, are removed.
    pub fn open(dir: &Path, first: u64, has_events: bool, wandb: Option<Wandb>) -> io::Result<Metrics> {
        let path = dir.join("metrics.jsonl");
        if !is_there(&path) {
            events::remove_all(dir)?;
        }
        let file = append_own(&path)?;
        Ok(Metrics { file, events: has_events.then(|| Events::create(dir, first)).transpose()?, wandb })
    }

    /// Writes a step to all of them: in `metrics.jsonl` one line of `step`, then each name with its value. Values that are not finite become
    /// null there and are left out elsewhere. Returns what is to be said of it.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<Vec<String>> {
        let mut line = serde_json::Map::new();
        line.insert("step".to_owned(), step.into());
        line.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        self.file.write_all(format!("{}\n", serde_json::Value::Object(line)).as_bytes())?;
        if let Some(events) = &mut self.events {
            events.log(step, values)?;
        }
        let Some(wandb) = &mut self.wandb else { return Ok(Vec::new()) };
        let before = wandb.dropped();
        wandb.log(step, values);
        let mut news = wandb.news();
        if before == 0 && wandb.dropped() > 0 {
            news.push(format!(
                "warning: the client of Weights & Biases does not keep up, or has ended: metrics are dropped from step {step} on"
            ));
        }
        Ok(news)
    }
}
