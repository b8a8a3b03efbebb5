//! A run's folder: where it starts from, what it logs, when it saves, how it stops.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::learner::Learner;
use crate::checkpoint::{CheckpointError, folder, resume};
use crate::recipe::plan::Plan;
use crate::telemetry::Metrics;

const STATE_FILE: &str = "trainer_state.json";

/// An open run folder.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    companions: PathBuf,
    metrics: Metrics,
    save_steps: u64,
    save_total_limit: usize,
    stop: Arc<AtomicBool>,
    /// Steps done before this process began.
    pub start: u64,
}

/// `trainer_state.json`: what a resumed run needs besides weights and optimizer state. Everything else is a function of the recipe
/// and the step.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
pub struct TrainerState {
    /// Steps done.
    pub global_step: u64,
    /// Optimizer updates done.
    pub updates: u64,
}

/// Where a run takes up.
#[derive(Clone, PartialEq, Debug)]
pub struct ResumePoint {
    /// The checkpoint folder.
    pub dir: PathBuf,
    /// Its state.
    pub state: TrainerState,
}

/// The newest checkpoint in a run's folder.
pub fn resume_point(run: &Path) -> Result<Option<ResumePoint>, CheckpointError> {
    let Some((_, dir)) = resume::list(run).pop() else { return Ok(None) };
    let path = dir.join(STATE_FILE);
    let text = std::fs::read_to_string(&path).map_err(CheckpointError::file("read", &path))?;
    let state = serde_json::from_str(&text).map_err(|e| CheckpointError::Damaged { path, reason: e.to_string() })?;
    Ok(Some(ResumePoint { dir, state }))
}

impl Run {
    /// Opens the folder that the plan names and writes the resolved recipe into it.
    pub fn open(plan: &Plan, start: u64, stop: Arc<AtomicBool>) -> Result<Run, TrainError> {
        let dir = plan.run_dir();
        std::fs::create_dir_all(&dir).map_err(CheckpointError::file("create", &dir))?;
        let recipe = dir.join("recipe.toml");
        std::fs::write(&recipe, plan.recipe.to_toml()).map_err(CheckpointError::file("write", recipe))?;
        if start == 0 {
            for stale in ["metrics.jsonl", "log.txt"] {
                match std::fs::remove_file(dir.join(stale)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(CheckpointError::file("remove", dir.join(stale))(e).into());
                    }
                    _ => {}
                }
            }
        }
        let metrics = Metrics::open(&dir).map_err(CheckpointError::file("open", dir.join("metrics.jsonl")))?;
        let training = &plan.recipe.training;
        Ok(Run {
            companions: plan.model_dir.clone(),
            metrics,
            save_steps: training.save_steps,
            save_total_limit: training.save_total_limit,
            stop,
            start,
            dir,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a step's numbers to the run's files.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), TrainError> {
        let path = self.dir.join("metrics.jsonl");
        self.metrics.log(step, values).map_err(|e| CheckpointError::file("write", path)(e).into())
    }

    /// Says a line on the terminal and in `log.txt`.
    pub fn say(&self, line: &str) {
        println!("{line}");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log.txt"));
        // The line has been said; a log file that cannot be written is not worth ending a run for.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }

    /// Whether the user asked the run to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Saves when `step` steps are done and the recipe, the end, or the user says so.
    pub fn save_if_due(&self, step: u64, steps: u64, learner: &Learner) -> Result<(), TrainError> {
        let due = self.save_steps > 0 && step.is_multiple_of(self.save_steps);
        if due || step == steps || self.is_stopping() {
            self.save(step, learner)?;
        }
        Ok(())
    }

    fn save(&self, step: u64, learner: &Learner) -> Result<(), TrainError> {
        let dir = self.dir.join(format!("checkpoint-{step}"));
        folder::save(learner.model(), learner.weights(), &self.companions, &dir, |dir| {
            learner.save_moments(dir)?;
            let state = TrainerState { global_step: step, updates: learner.updates() };
            let path = dir.join(STATE_FILE);
            let text = serde_json::to_string_pretty(&state).expect("numbers serialise");
            std::fs::write(&path, text + "\n").map_err(CheckpointError::file("write", path))
        })?;
        if self.save_total_limit > 0 {
            resume::prune(&self.dir, self.save_total_limit)?;
        }
        Ok(())
    }
}
