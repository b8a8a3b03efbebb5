//! A run's folder: where it starts from, what it logs, when it saves, how it stops.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::TrainError;
use super::metrics_file::{self, METRICS_FILE, keep_steps, values_of};
use super::session::Session;
use super::trainer_state::{Saved, TrainerState};
use crate::checkpoint::resume::CHECKPOINT;
use crate::checkpoint::{CheckpointError, folder, resume};
use crate::files;
use crate::files::open::{SETTINGS_BYTES_MAX, append_own, check_own, check_own_folder, is_there, read_text, replace};
use crate::recipe::plan::Plan;
use crate::recipe::{ReportTo, SaveStrategy};
use crate::telemetry::versions::{VERSIONS_FILE, write_versions};
use crate::telemetry::wandb::{self, WANDB_ID_FILE, Wandb, WandbRun};
use crate::telemetry::window::{Averages, Metric, Window};
use crate::telemetry::{Metrics, Progress};

const STATE_FILE: &str = "trainer_state.json";
/// The steps since the last line of metrics. It holds times too, so it is not part of the state, which is the same for every run.
const WINDOW_FILE: &str = "logging_window.json";
const LOG_FILE: &str = "log.txt";
/// Folder of what the model did.
pub const SAMPLES_FOLDER: &str = "samples";

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
    saving_time: Duration,
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
        let training = &plan.recipe.training;
        let of_wandb = || WandbRun {
            name: recipe.name.clone(),
            dir: dir.clone(),
            config: serde_json::to_value(&recipe).unwrap_or_default(),
        };
        let is_asked = |place| training.report_to.contains(&place);
        let wandb = is_asked(ReportTo::Wandb).then(|| Wandb::start(&of_wandb())).transpose()?;
        let metrics = Metrics::open(&dir, start + 1, is_asked(ReportTo::Tensorboard), wandb)
            .map_err(CheckpointError::file("open", metrics))?;
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
            saving_time: Duration::ZERO,
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

    /// Writes a step's numbers to where the recipe wants them; what is not finite becomes null.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), TrainError> {
        let news = self.metrics.log(step, values);
        let news = news.map_err(CheckpointError::file("write", self.dir.join(METRICS_FILE)))?;
        news.iter().for_each(|line| self.say(line));
        Ok(())
    }

    /// What was logged at `step` under the given names, if a line has them all; NaN for null.
    pub fn logged<const N: usize>(&self, step: u64, names: [&str; N]) -> Option<[f64; N]> {
        let mut lines = metrics_file::lines(&self.dir).into_iter().filter(|(of, _)| *of == step);
        lines.find_map(|(_, line)| values_of(&line, names))
    }

    /// The lines of metrics so far, each with its step, which have all of the given names; NaN for null.
    pub fn history<const N: usize>(&self, names: [&str; N]) -> Vec<(u64, [f64; N])> {
        let lines = metrics_file::lines(&self.dir).into_iter();
        lines.filter_map(|(step, line)| Some((step, values_of(&line, names)?))).collect()
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

    /// Time that checkpoints took since the last call.
    pub fn take_saving_time(&mut self) -> Duration {
        std::mem::take(&mut self.saving_time)
    }

    /// Saves when the recipe, the end, or the user says so.
    pub fn save_if_due<'a>(&mut self, state: TrainerState, saved: impl Into<Saved<'a>>) -> Result<(), TrainError> {
        let due = self.save_steps > 0 && state.global_step.is_multiple_of(self.save_steps);
        let is_saved = self.save_strategy == SaveStrategy::Steps;
        if is_saved && (due || state.global_step == self.steps || self.is_stopping()) {
            let began = Instant::now();
            self.save(state, saved.into())?;
            self.saving_time += began.elapsed();
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

    fn save(&self, state: TrainerState, saved: Saved<'_>) -> Result<(), TrainError> {
        let Saved { learner, reference, replay, curriculum } = saved;
        let dir = self.dir.join(format!("{CHECKPOINT}{}", state.global_step));
        folder::save(learner.model(), learner.weights(), &self.companions, &dir, |dir| {
            learner.save_moments(dir)?;
            if let Some(reference) = reference {
                reference.write_to(&self.companions, dir)?;
            }
            replay.map_or(Ok(()), |replay| replay.write_to(dir))?;
            curriculum.map_or(Ok(()), |curriculum| curriculum.write_to(dir))?;
            write_json(dir.join(STATE_FILE), &state)?;
            write_json(dir.join(WINDOW_FILE), &self.window)
        })?;
        if self.save_total_limit > 0 {
            resume::prune(&self.dir, self.save_total_limit)?;
        }
        Ok(())
    }
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
    wandb::forget(dir).map_err(CheckpointError::file("remove", dir.join(WANDB_ID_FILE)))?;
    let samples = dir.join(SAMPLES_FOLDER);
    match std::fs::remove_dir_all(&samples) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CheckpointError::file("remove", samples)(error));
        }
        _ => {}
    }
    resume::list(dir).iter().try_for_each(|(_, checkpoint)| folder::remove(checkpoint))
}
