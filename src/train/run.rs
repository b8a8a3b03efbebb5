//! A run's folder: where it starts from, what it logs, when it saves, how it stops.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::TrainError;
use super::session::Session;
use super::trainer_state::{Saved, TrainerState};
use crate::checkpoint::resume::CHECKPOINT;
use crate::checkpoint::{CheckpointError, folder, resume};
use crate::files;
use crate::files::open::{
    SETTINGS_BYTES_MAX, append_own, check_own, check_own_folder, is_there, read, read_text, replace,
};
use crate::recipe::SaveStrategy;
use crate::recipe::plan::Plan;
use crate::telemetry::versions::{VERSIONS_FILE, write_versions};
use crate::telemetry::window::{Averages, Metric, Window};
use crate::telemetry::{Metrics, Progress};

const STATE_FILE: &str = "trainer_state.json";
/// The steps since the last line of metrics. It holds times too, so it is not part of the state, which is the same for every run.
const WINDOW_FILE: &str = "logging_window.json";
const METRICS_FILE: &str = "metrics.jsonl";
const LOG_FILE: &str = "log.txt";
/// Folder of what the model did.
pub const SAMPLES_FOLDER: &str = "samples";
/// Most bytes of `metrics.jsonl`.
const METRICS_BYTES_MAX: u64 = 8 << 30;

/// An open run folder.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    companions: PathBuf,
    metrics: Metrics,
    save_strategy: SaveStrategy,
    save_steps: u64,
    save_total_limit: usize,
    logging_steps: u64,
    /// Windows lie between multiples of `logging_steps`, wherever a run was resumed; see [`Run::close_step`].
    window: Window,
    stop: Arc<AtomicBool>,
    progress: Progress,
    /// Steps done before this process began.
    pub start: u64,
    /// Steps of the whole run.
    pub steps: u64,
}

/// Where a run takes up.
#[derive(Clone, PartialEq, Debug)]
pub struct ResumePoint {
    /// The checkpoint folder.
    pub dir: PathBuf,
    /// What its `trainer_state.json` says.
    pub state: TrainerState,
}

/// Where a session takes up: at the newest checkpoint of the run's folder, or at the start where there is none or the user gives the
/// folder up. What a killed process left is cleared up.
///
/// # Errors
/// [`TrainError::Occupied`] where starting would lose checkpoints.
pub fn start_point(run: &Path, session: &Session) -> Result<Option<ResumePoint>, TrainError> {
    resume::tidy(run)?;
    match resume::list(run).pop() {
        Some((step, newest)) if session.resume => Ok(Some(resume_point(step, newest)?)),
        Some((step, _)) if !session.overwrite => {
            Err(TrainError::Occupied { dir: run.to_owned(), newest: format!("{CHECKPOINT}{step}") })
        }
        None if session.resume => {
            println!("{} holds no checkpoint: the run starts anew", run.display());
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn resume_point(step: u64, dir: PathBuf) -> Result<ResumePoint, CheckpointError> {
    let state: TrainerState = read_json(dir.join(STATE_FILE))?;
    match state.problem(step) {
        Some((key, problem)) => {
            Err(CheckpointError::State { path: dir.join(STATE_FILE), name: key.to_owned(), problem })
        }
        None => Ok(ResumePoint { dir, state }),
    }
}

/// The window that a checkpoint was saved in at a step; a checkpoint without one was saved between two.
fn window_of(checkpoint: &Path, step: u64) -> Result<Window, CheckpointError> {
    let path = checkpoint.join(WINDOW_FILE);
    if !is_there(&path) {
        return Ok(Window::default());
    }
    let window: Window = read_json(path.clone())?;
    match window.fits(step) {
        true => Ok(window),
        false => {
            let problem = format!("counts more steps than the {step} of the checkpoint");
            Err(CheckpointError::State { path, name: "steps".to_owned(), problem })
        }
    }
}

fn read_json<T: DeserializeOwned>(path: PathBuf) -> Result<T, CheckpointError> {
    let text = read_text(&path, SETTINGS_BYTES_MAX).map_err(CheckpointError::file("read", &path))?;
    files::json::read_json(text.as_bytes()).map_err(|reason| CheckpointError::Damaged { path, reason })
}

fn write_json(path: PathBuf, value: &impl Serialize) -> Result<(), CheckpointError> {
    let text = serde_json::to_string_pretty(value).expect("numbers serialise");
    replace(&path, (text + "\n").as_bytes()).map_err(CheckpointError::file("write", path))
}

impl Run {
    /// Opens the folder that the plan names, for a run from step `start` to `steps`, and writes the resolved recipe into it. What an
    /// earlier run logged behind step `start`, and at the start its checkpoints, is removed.
    pub fn open(plan: &Plan, start: u64, steps: u64, stop: Arc<AtomicBool>) -> Result<Run, TrainError> {
        let dir = plan.run_dir();
        std::fs::create_dir_all(&dir).map_err(CheckpointError::file("create", &dir))?;
        let path = dir.join("recipe.toml");
        let mut recipe = plan.recipe.clone();
        recipe.training.max_steps = Some(steps);
        let checkpoint = dir.join(format!("{CHECKPOINT}{start}"));
        if start > steps {
            let problem = format!("is {start}, and the recipe has {steps} steps; raise `training.max_steps`");
            return Err(CheckpointError::State {
                path: checkpoint.join(STATE_FILE),
                name: "global_step".to_owned(),
                problem,
            }
            .into());
        }
        let window = if start == 0 { Window::default() } else { window_of(&checkpoint, start)? };
        let metrics = dir.join(METRICS_FILE);
        if start > 0 {
            check_own_files(&dir)?;
        }
        replace(&path, recipe.to_toml().as_bytes()).map_err(CheckpointError::file("write", path))?;
        match start {
            0 => forget(&dir)?,
            _ => keep_steps(&metrics, start).map_err(CheckpointError::file("shorten", &metrics))?,
        }
        let metrics = Metrics::open(&dir, start + 1).map_err(CheckpointError::file("open", metrics))?;
        let training = &plan.recipe.training;
        let progress = Progress::new(&plan.recipe.name, "steps", steps);
        progress.start_at(start);
        let run = Run {
            companions: plan.checkpoint.dir.clone(),
            metrics,
            save_strategy: training.save_strategy,
            save_steps: training.save_steps,
            save_total_limit: training.save_total_limit,
            logging_steps: training.logging_steps,
            window,
            stop,
            progress,
            start,
            steps,
            dir,
        };
        if start > 0 {
            run.say(&format!("resumed after step {start} of {steps}"));
        }
        Ok(run)
    }

    /// Writes down with what the run is made: `versions.json`, and a line of the log. `of_tools` has the programs that tools run.
    pub fn note_versions(&self, of_tools: BTreeMap<String, String>) -> Result<(), TrainError> {
        let named: Vec<String> = of_tools.iter().map(|(name, version)| format!("{name} {version}")).collect();
        if !named.is_empty() {
            self.say(&format!("tools run on {}", named.join(", ")));
        }
        write_versions(&self.dir, of_tools)
            .map_err(|e| CheckpointError::file("write", self.dir.join(VERSIONS_FILE))(e).into())
    }

    /// The run's folder: `output_dir/name`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes in the metrics of a step, and gives those of its window where they are to be logged: at multiples of `logging_steps` and at
    /// the last step. A window that a checkpoint cuts is saved with it and goes on in the resumed run, so that its line is the same. That
    /// of the last step goes on too where a run is resumed to more steps.
    pub fn close_step(&mut self, step: u64, metrics: Vec<Metric>) -> Option<Averages> {
        self.window.add_step(metrics);
        let is_full = step.is_multiple_of(self.logging_steps);
        let averages = (is_full || step == self.steps).then(|| self.window.averages());
        if is_full {
            self.window = Window::default();
        }
        averages
    }

    /// Writes a step's numbers to the run's files; what is not finite becomes null.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), TrainError> {
        let path = self.dir.join(METRICS_FILE);
        self.metrics.log(step, values).map_err(|e| CheckpointError::file("write", path)(e).into())
    }

    /// What was logged at `step` under the given names, if a line has them all; NaN for null.
    pub fn logged<const N: usize>(&self, step: u64, names: [&str; N]) -> Option<[f64; N]> {
        let text = read_text(&self.dir.join(METRICS_FILE), METRICS_BYTES_MAX).ok()?;
        text.lines().find_map(|line| values_of(line, step, names))
    }

    /// Moves the progress bar on by a step, `message` behind it.
    pub fn advance(&self, message: &str) {
        self.progress.advance(1);
        self.progress.set_message(message);
    }

    /// Says a line on the terminal and in `log.txt`.
    pub fn say(&self, line: &str) {
        self.progress.say(line);
        let file = append_own(&self.dir.join(LOG_FILE));
        // The line has been said; a log file that cannot be written is not worth ending a run for.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }

    /// Whether the user asked the run to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Saves when the recipe, the end, or the user says so.
    pub fn save_if_due<'a>(&self, state: TrainerState, saved: impl Into<Saved<'a>>) -> Result<(), TrainError> {
        let due = self.save_steps > 0 && state.global_step.is_multiple_of(self.save_steps);
        let is_saved = self.save_strategy == SaveStrategy::Steps;
        if is_saved && (due || state.global_step == self.steps || self.is_stopping()) {
            self.save(state, saved.into())?;
        }
        Ok(())
    }

    /// Saves the steps that are done where the run is about to end for a reason that has nothing to do with the weights, so that it can go on
    /// once the reason is gone.
    pub fn save_before_end<'a>(&self, state: TrainerState, saved: impl Into<Saved<'a>>) -> Result<(), TrainError> {
        let is_there = self.dir.join(format!("{CHECKPOINT}{}", state.global_step)).exists();
        match self.save_strategy == SaveStrategy::Steps && state.global_step > self.start && !is_there {
            true => self.save(state, saved.into()),
            false => Ok(()),
        }
    }

    fn save(&self, state: TrainerState, Saved { learner, reference, replay }: Saved<'_>) -> Result<(), TrainError> {
        let dir = self.dir.join(format!("{CHECKPOINT}{}", state.global_step));
        folder::save(learner.model(), learner.weights(), &self.companions, &dir, |dir| {
            learner.save_moments(dir)?;
            if let Some(reference) = reference {
                reference.save(&self.companions, dir)?;
            }
            replay.map_or(Ok(()), |replay| replay.save(dir))?;
            write_json(dir.join(STATE_FILE), &state)?;
            write_json(dir.join(WINDOW_FILE), &self.window)
        })?;
        if self.save_total_limit > 0 {
            resume::prune(&self.dir, self.save_total_limit)?;
        }
        Ok(())
    }
}

/// The values of a line of metrics under the given names, if it is of `step` and has them all; NaN for null.
fn values_of<const N: usize>(line: &str, step: u64, names: [&str; N]) -> Option<[f64; N]> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let value = |name: &&str| Some(line.get(*name)?.as_f64().unwrap_or(f64::NAN));
    let values: Option<Vec<f64>> = names.iter().map(value).collect();
    values.filter(|_| line["step"] == step)?.try_into().ok()
}

/// Refuses a folder in which what the run writes to would lead elsewhere.
fn check_own_files(dir: &Path) -> Result<(), CheckpointError> {
    for name in [METRICS_FILE, LOG_FILE] {
        let path = dir.join(name);
        check_own(&path).map_err(CheckpointError::file("write", path))?;
    }
    let samples = dir.join(SAMPLES_FOLDER);
    check_own_folder(&samples).map_err(CheckpointError::file("write into", samples))
}

/// Removes what an earlier run left: its logs, its samples and its checkpoints.
fn forget(dir: &Path) -> Result<(), CheckpointError> {
    for stale in [METRICS_FILE, LOG_FILE] {
        match std::fs::remove_file(dir.join(stale)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CheckpointError::file("remove", dir.join(stale))(error));
            }
            _ => {}
        }
    }
    let samples = dir.join(SAMPLES_FOLDER);
    match std::fs::remove_dir_all(&samples) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CheckpointError::file("remove", samples)(error));
        }
        _ => {}
    }
    resume::list(dir).iter().try_for_each(|(_, checkpoint)| folder::remove(checkpoint))
}

/// Cuts off the lines of steps behind `last`, and a line that was not written to its end.
fn keep_steps(metrics: &Path, last: u64) -> std::io::Result<()> {
    let bytes = match read(metrics, METRICS_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let is_kept = |line: &&[u8]| {
        let value: Option<serde_json::Value> =
            line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        value.and_then(|value| value["step"].as_u64()).is_some_and(|step| step <= last)
    };
    let kept: Vec<u8> = bytes.split_inclusive(|&byte| byte == b'\n').filter(is_kept).collect::<Vec<_>>().concat();
    if kept.len() == bytes.len() {
        return Ok(());
    }
    replace(metrics, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_logged_as_null_was_logged() {
        let line = "{\"step\":4,\"accuracy\":null,\"reward\":0.5}";
        let found = values_of(line, 4, ["accuracy", "reward"]).unwrap();
        assert!(found[0].is_nan() && found[1] == 0.5, "{found:?}");
        assert!(values_of(line, 4, ["accuracy", "tool_use"]).is_none() && values_of(line, 5, ["reward"]).is_none());
    }

    #[test]
    fn lines_behind_the_checkpoint_and_half_lines_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"a\":1}\n{\"step\":3}\n{\"step\":").unwrap();
        keep_steps(&path, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"a\":1}\n");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}").unwrap();
        keep_steps(&path, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    }
}
