//! Finds a Python that has what model code needs: `THYME_PYTHON`, else the user's python3, else a managed environment that is
//! made once, with pip, under the user's cache folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::SandboxError;

/// What model code imports by the names on the left is installed by those on the right.
const PACKAGES: [&str; 3] = ["numpy", "opencv-python-headless", "pillow"];

/// Prints the real path of the interpreter, or the modules that it lacks.
const PROBE: &str = r#"
import sys
from importlib.util import find_spec
if sys.version_info < (3, 9):
    print("lacks:python 3.9 or newer")
else:
    missing = [name for name in ("numpy", "cv2", "PIL") if find_spec(name) is None]
    print("lacks:" + ", ".join(missing) if missing else "has:" + sys.executable)
"#;

/// A Python interpreter that has numpy, cv2 and PIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The executable itself, not a shim.
    pub path: PathBuf,
}

impl Interpreter {
    /// Finds the interpreter, making the managed environment if no other will do (said on stderr; needs the network once).
    pub fn find() -> Result<Interpreter, SandboxError> {
        if let Some(python) = std::env::var_os("THYME_PYTHON").filter(|python| !python.is_empty()) {
            return match probe(Path::new(&python)) {
                Probe::Has(path) => Ok(Interpreter { path }),
                Probe::Lacks(modules) => {
                    Err(SandboxError::ThymePython { python: python.into(), reason: format!("it lacks {modules}") })
                }
                Probe::Absent(reason) => Err(SandboxError::ThymePython { python: python.into(), reason }),
            };
        }
        if let Probe::Has(path) = probe(Path::new("python3")) {
            return Ok(Interpreter { path });
        }
        managed(&cache_folder()?)
    }
}

enum Probe {
    Has(PathBuf),
    Lacks(String),
    Absent(String),
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
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().split_once(':') {
        Some(("has", path)) if !path.is_empty() => Probe::Has(path.into()),
        Some(("lacks", modules)) => Probe::Lacks(modules.to_owned()),
        _ => Probe::Absent(last_line(&output.stderr)),
    }
}

/// `$XDG_CACHE_HOME/thyme-engine`, else `~/.cache/thyme-engine`.
fn cache_folder() -> Result<PathBuf, SandboxError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache =
        set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("thyme-engine")).ok_or(SandboxError::NoCacheFolder)
}

/// The managed environment under `cache`, made if need be. One process makes it; others wait for that one.
fn managed(cache: &Path) -> Result<Interpreter, SandboxError> {
    let home = cache.join("python");
    let python = home.join("bin/python");
    let in_cache = |source: std::io::Error| SandboxError::Folder { path: cache.to_owned(), source };
    fs::create_dir_all(cache).map_err(in_cache)?;
    let lock = File::create(cache.join("python.lock")).map_err(in_cache)?;
    lock.lock().map_err(in_cache)?;
    if let Probe::Has(path) = probe(&python) {
        return Ok(Interpreter { path });
    }
    eprintln!(
        "thyme-engine: python3 lacks numpy, cv2 or PIL; making an environment of its own in {} (once, with pip)",
        home.display()
    );
    if home.exists() {
        fs::remove_dir_all(&home).map_err(in_cache)?;
    }
    let folder: OsString = home.clone().into();
    step(Command::new("python3").args(["-m", "venv"]).arg(folder), "python3 -m venv")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]).args(PACKAGES);
    step(&mut install, "pip install")?;
    match probe(&python) {
        Probe::Has(path) => Ok(Interpreter { path }),
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
