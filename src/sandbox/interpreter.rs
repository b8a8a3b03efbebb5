//! Finds a Python that has what model code needs: `THYME_PYTHON`, else the user's python3, else a managed environment that is
//! made once, with pip, under the user's cache folder.

use std::fmt;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use crate::files::cache::cache_folder;

/// What the managed environment holds, as pip takes it: exact versions, so that the same code gives the same values on every machine.
/// Code that models learned from was mostly written for numpy 1 and OpenCV 4.
const PACKAGES: [&str; 7] = [
    "numpy==1.26.4; python_version < '3.13'",
    "numpy==2.1.3; python_version == '3.13'",
    "numpy==2.3.5; python_version > '3.13'",
    "opencv-python-headless==4.11.0.86; python_version <= '3.13'",
    "opencv-python-headless==4.13.0.92; python_version > '3.13'",
    "pillow==11.3.0; python_version <= '3.13'",
    "pillow==12.0.0; python_version > '3.13'",
];
/// The file of the managed environment that lists what it was made with.
const REQUIREMENTS: &str = "requirements.txt";
/// The Python of an environment.
const PYTHON: &str = "bin/python";
/// The folder in which an environment is made.
const PARTIAL: &str = "partial-python";
/// When an environment that could not be made is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Prints, as JSON, the real path of the interpreter and the versions, or the modules that it lacks.
const PROBE: &str = r#"
import json, sys
from importlib.util import find_spec

def version(module, *packages):
    from importlib import metadata
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return __import__(module).__version__

if sys.version_info < (3, 9):
    print(json.dumps({"lacks": "python 3.9 or newer"}))
elif missing := [name for name in ("numpy", "cv2", "PIL") if find_spec(name) is None]:
    print(json.dumps({"lacks": ", ".join(missing)}))
else:
    opencv = [f"opencv-{kind}" for kind in ("python-headless", "python", "contrib-python-headless", "contrib-python")]
    versions = {
        "python": sys.version.split()[0],
        "numpy": version("numpy", "numpy"),
        "opencv": version("cv2", *opencv),
        "pillow": version("PIL", "pillow"),
    }
    print(json.dumps({"path": sys.executable, "versions": versions}))
"#;

/// A Python interpreter that has numpy, cv2 and PIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The executable itself, not a shim.
    pub path: PathBuf,
    /// What it is and has.
    pub versions: Versions,
}

/// What model code runs on: the values that it computes may depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of Python.
    pub python: String,
    /// Version of numpy.
    pub numpy: String,
    /// Version of the package that `cv2` comes from.
    pub opencv: String,
    /// Version of Pillow.
    pub pillow: String,
}

impl fmt::Display for Versions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Versions { python, numpy, opencv, pillow } = self;
        write!(formatter, "Python {python} with numpy {numpy}, OpenCV {opencv} and Pillow {pillow}")
    }
}

impl Interpreter {
    /// Finds the interpreter, making the managed environment if no other will do (said on stderr; needs the network once).
    pub fn find() -> Result<Interpreter, SandboxError> {
        if let Some(python) = std::env::var_os("THYME_PYTHON").filter(|python| !python.is_empty()) {
            return match probe(Path::new(&python)) {
                Probe::Has(interpreter) => Ok(interpreter),
                Probe::Lacks(modules) => {
                    Err(SandboxError::ThymePython { python: python.into(), reason: format!("it lacks {modules}") })
                }
                Probe::Absent(reason) => Err(SandboxError::ThymePython { python: python.into(), reason }),
            };
        }
        if let Probe::Has(interpreter) = probe(Path::new("python3")) {
            return Ok(interpreter);
        }
        managed(&cache_folder().ok_or(SandboxError::NoCacheFolder)?)
    }
}

enum Probe {
    Has(Interpreter),
    Lacks(String),
    Absent(String),
}

/// What `PROBE` prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Found {
    Has { path: PathBuf, versions: Versions },
    Lacks { lacks: String },
}

fn probe(python: &Path) -> Probe {
    // The zygote is started without these, so they must not help here.
    let command = Command::new(python)
        .args(["-c", PROBE])
        .env_remove("PYTHONPATH")
        .env_remove("PYTHONHOME")
        .current_dir("/")
        .stdin(Stdio::null())
        .output();
    let output = match command {
        Ok(output) => output,
        Err(error) => return Probe::Absent(error.to_string()),
    };
    match serde_json::from_slice(&output.stdout) {
        Ok(Found::Has { path, versions }) => Probe::Has(Interpreter { path, versions }),
        Ok(Found::Lacks { lacks }) => Probe::Lacks(lacks),
        Err(_) => Probe::Absent(last_line(&output.stderr)),
    }
}

/// The managed environment under `cache`, made if there is none with the packages of this version. One process makes it; others wait
/// for that one. It gets a folder of its own, and none is removed: another process may run from it. Where it cannot be made, that with
/// other packages is used for a day, and this is said.
fn managed(cache: &Path) -> Result<Interpreter, SandboxError> {
    let in_cache = |source: std::io::Error| SandboxError::Folder { path: cache.to_owned(), source };
    fs::create_dir_all(cache).map_err(in_cache)?;
    let lock = File::create(cache.join("python.lock")).map_err(in_cache)?;
    lock.lock().map_err(in_cache)?;
    let present = environments(cache).map_err(in_cache)?.into_iter().find_map(|home| match probe(&home.join(PYTHON)) {
        Probe::Has(interpreter) => Some((interpreter, is_current(&home))),
        Probe::Lacks(_) | Probe::Absent(_) => None,
    });
    let tried = cache.join("python.tried");
    let was_tried = names_packages(&tried) && age_of(&tried).is_some_and(|age| age < RETRY_AFTER);
    let reason = match &present {
        Some((interpreter, is_current)) if *is_current || was_tried => return Ok(interpreter.clone()),
        Some((Interpreter { versions, .. }, _)) => {
            format!("that in use is {versions}, which this version does not pin")
        }
        None => "python3 lacks numpy, cv2 or PIL".to_owned(),
    };
    let home = new_home(cache);
    eprintln!("thyme-engine: {reason}; making an environment in {} (once, with pip)", home.display());
    let made = make(&cache.join(PARTIAL), present.is_some()).and_then(|partial| {
        fs::rename(partial, &home).map_err(in_cache)?;
        has(&home)
    });
    match (made, present) {
        (Err(error), Some((interpreter, _))) => {
            eprintln!("thyme-engine: {error}; going on for a day with {}", interpreter.versions);
            fs::write(tried, PACKAGES.join("\n")).map_err(in_cache)?;
            Ok(interpreter)
        }
        (made, _) => made,
    }
}

/// The folders of environments: those with the packages of this version first, then the newest.
fn environments(cache: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if (name == "python" || name.starts_with("python-")) && path.is_dir() {
            found.push(path);
        }
    }
    found.sort_by_cached_key(|home| (!is_current(home), age_of(home), home.clone()));
    Ok(found)
}

/// A name that no folder has: `python-` and a hash of the packages, with a number behind it where that one does not work.
fn new_home(cache: &Path) -> PathBuf {
    let mut hash = DefaultHasher::new();
    PACKAGES.hash(&mut hash);
    let first = cache.join(format!("python-{:016x}", hash.finish()));
    let others = (2..).map(|number| cache.join(format!("python-{:016x}-{number}", hash.finish())));
    std::iter::once(first).chain(others).find(|home| !home.exists()).expect("numbers do not end")
}

/// Whether an environment was made with the packages of this version.
fn is_current(home: &Path) -> bool {
    names_packages(&home.join(REQUIREMENTS))
}

/// Whether a file lists the packages of this version.
fn names_packages(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text == PACKAGES.join("\n"))
}

/// How long ago a file was written.
fn age_of(path: &Path) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

/// Makes an environment at `home`, in place of what is there. Without patience a network that is not there costs no minutes.
fn make(home: &Path, is_impatient: bool) -> Result<&Path, SandboxError> {
    let in_home = |source: std::io::Error| SandboxError::Folder { path: home.to_owned(), source };
    if home.exists() {
        fs::remove_dir_all(home).map_err(in_home)?;
    }
    step(Command::new("python3").args(["-m", "venv"]).arg(home), "python3 -m venv")?;
    let mut install = Command::new(home.join(PYTHON));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    if is_impatient {
        install.args(["--retries", "0"]);
    }
    step(install.args(PACKAGES), "pip install")?;
    has(home)?;
    fs::write(home.join(REQUIREMENTS), PACKAGES.join("\n")).map_err(in_home)?;
    Ok(home)
}

/// The interpreter of an environment that was made just now.
fn has(home: &Path) -> Result<Interpreter, SandboxError> {
    match probe(&home.join(PYTHON)) {
        Probe::Has(interpreter) => Ok(interpreter),
        Probe::Lacks(reason) | Probe::Absent(reason) => Err(SandboxError::MakePython {
            step: "pip install".into(),
            reason: format!("the new environment lacks {reason}"),
        }),
    }
}

fn step(command: &mut Command, name: &str) -> Result<(), SandboxError> {
    let failed = |reason: String| SandboxError::MakePython { step: name.to_owned(), reason };
    let output = command.stdin(Stdio::null()).env_remove("PYTHONPATH").env_remove("PYTHONHOME").output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    // venv explains itself on stdout when ensurepip is missing.
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(failed(last_line(said)))
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}
