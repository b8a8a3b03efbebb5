//! A tool or a reward that a recipe names by a Python file: its keys, its start, and where its errors go. It runs in the sandbox's workers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{debug, warn};

use super::tools::python::PythonSettings;
use crate::files::open::{SETTINGS_BYTES_MAX, read_text};
use crate::sandbox::{
    Arguments, CallError, Called, FileKind, Guarantee, Returned, Sandbox, SandboxError, UserFile, Worker, WorkerPool,
};

/// The key that makes a plug-in of no known name a Python file.
const FILE_KEY: &str = "file";
/// Most workers of one file.
const WORKERS_MAX: usize = 1024;
/// Where the sandbox puts files of its own, which hide what is there.
const SANDBOX_FILES: &str = "/mnt/data";

/// Keys of a tool or a reward in a Python file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonFileSettings {
    /// The file, relative to the recipe.
    pub file: PathBuf,
    /// Further folders that it may read, relative to the recipe; it can import modules in them.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Wall time of one call. Loading the file may take ten times as long.
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: f64,
    /// Memory that a process may add to that of the interpreter.
    #[serde(default = "memory_mib")]
    pub memory_mib: u64,
    /// Files that a process may hold.
    #[serde(default = "disk_mib")]
    pub disk_mib: u64,
    /// Processes that calls are shared among; 0 takes one for each core. A tool that is a class has one for each sequence instead.
    #[serde(default)]
    pub num_workers: usize,
    /// Guarantees of the sandbox whose absence is accepted, by key.
    #[serde(default)]
    pub consent: Vec<Guarantee>,
}

fn timeout_seconds() -> f64 {
    PythonSettings::default().timeout_seconds
}

fn memory_mib() -> u64 {
    PythonSettings::default().memory_mib
}

fn disk_mib() -> u64 {
    PythonSettings::default().disk_mib
}

/// Whether a plug-in whose name is not known is a Python file.
pub fn is_python_file(table: Option<&toml::Table>) -> bool {
    table.is_some_and(|table| table.contains_key(FILE_KEY))
}

impl PythonFileSettings {
    /// Refuses values that cannot be, and files that are not there.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub fn check(&self) -> Result<(), String> {
        self.limits().options().map_err(|fault| fault.reason)?;
        if self.num_workers > WORKERS_MAX {
            return Err(format!("num_workers is {}: give at most {WORKERS_MAX}, or 0", self.num_workers));
        }
        self.source()?;
        self.folders().map(drop)
    }

    /// The file's text.
    fn source(&self) -> Result<String, String> {
        let cannot =
            |error| format!("cannot read {}: {error}; give a file relative to the recipe", self.file.display());
        read_text(&self.file, SETTINGS_BYTES_MAX).map_err(cannot)
    }

    /// The folders to read, by their real paths.
    fn folders(&self) -> Result<Vec<PathBuf>, String> {
        let real = |folder: &PathBuf| {
            let cannot = |reason: &str| {
                Err(format!("`read` names {}, {reason}; give a folder relative to the recipe", folder.display()))
            };
            match folder.canonicalize() {
                Err(_) => cannot("which is not there"),
                Ok(real) if !real.is_dir() => cannot("which is no folder"),
                Ok(real) if real.parent().is_none() => cannot("which is the whole machine"),
                Ok(real) if real.starts_with(SANDBOX_FILES) => {
                    cannot("and the sandbox has files of its own below /mnt/data, which hide it")
                }
                Ok(real) => Ok(real),
            }
        };
        self.read.iter().map(real).collect()
    }

    fn limits(&self) -> PythonSettings {
        PythonSettings {
            timeout_seconds: self.timeout_seconds,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
            consent: self.consent.clone(),
        }
    }

    /// Calls that may run at a time.
    pub fn workers(&self) -> usize {
        match self.num_workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}

/// A file that is loaded and can be called.
pub struct PythonFile {
    workers: WorkerPool,
    /// Lines whose errors were shown: each once.
    shown: Mutex<BTreeSet<u32>>,
}

impl PythonFile {
    /// Starts a sandbox for the file and loads it: the file, and what it says of itself.
    ///
    /// # Errors
    /// When the machine offers no python or too few walls, or the file does not load: with file and line.
    pub fn start(settings: &PythonFileSettings, kind: FileKind) -> Result<(Self, Value), String> {
        let mut options = settings.limits().options().map_err(|fault| fault.reason)?;
        options.read = settings.folders()?;
        let name = settings.file.clone();
        let place = name.canonicalize().unwrap_or_else(|_| name.clone());
        let file = UserFile { name, place, source: settings.source()?.into_bytes(), kind };
        let start = || Sandbox::start(options)?.worker_pool(file, settings.workers());
        let (workers, called) = start().map_err(|error: SandboxError| match error {
            // That error names the key of the tool `python`.
            SandboxError::NoWall { .. } => format!("{error}; of this file it is the key `consent` beside `file`"),
            other => other.to_string(),
        })?;
        let started = Self { workers, shown: Mutex::default() };
        match started.noted(called) {
            Ok(Returned { value, .. }) => Ok((started, value)),
            Err(error) => Err(error.with_place(started.path())),
        }
    }

    /// Calls the file in a process that remembers nothing of other calls.
    ///
    /// # Errors
    /// When no process can be started, as the outer one; what the file does wrong, as the inner one.
    pub fn call(&self, arguments: &Arguments) -> Result<Result<Returned, CallError>, String> {
        let called = self.workers.call(arguments).map_err(|error| error.to_string())?;
        Ok(self.noted(called))
    }

    /// Says what the file printed, and what it did wrong: at each line once, then for those who debug.
    pub fn noted(&self, called: Called) -> Result<Returned, CallError> {
        let file = self.path().display();
        if !called.printed.is_empty() {
            debug!("{file} printed: {}", called.printed.trim_end());
        }
        if let Err(error) = &called.result {
            let line = if let CallError::Raised { line, .. } = error { *line } else { 0 };
            let is_first = self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(line);
            let error = error.with_place(self.path());
            if is_first { warn!("{error}") } else { debug!("{error}") }
        }
        called.result
    }

    /// A process of the caller's own.
    pub fn own_worker(&self) -> Worker {
        self.workers.own_worker()
    }

    /// The file, as the recipe names it.
    pub fn path(&self) -> &Path {
        &self.workers.file().name
    }

    /// What its results depend on: the interpreter's versions, and the file itself by its hash.
    pub fn versions(&self, name: &str) -> [(String, String); 5] {
        let versions = self.workers.interpreter().versions.clone();
        let hash = blake3::hash(&self.workers.file().source).to_hex();
        let of_file = (format!("{name} (file)"), hash[..16].to_owned());
        let named = [
            ("python", versions.python),
            ("numpy", versions.numpy),
            ("opencv", versions.opencv),
            ("pillow", versions.pillow),
        ];
        let [python, numpy, opencv, pillow] = named.map(|(name, version)| (name.to_owned(), version));
        [python, numpy, opencv, pillow, of_file]
    }
}

/// The name of a plug-in that a recipe made up. Names of plug-ins live as long as the program, and a recipe has few.
pub fn static_name(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}
