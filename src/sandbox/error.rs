//! Why the sandbox could not start or go on.

use std::path::PathBuf;

use super::guarantee::Guarantee;

/// Why the sandbox could not start or go on. What model code does wrong is never one of these: it is an [`Execution`](super::Execution).
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A guarantee does not hold on this machine.
    #[error(
        "the sandbox cannot hold on this machine that {}: from inside, the probe could {}. Run where Landlock, user namespaces or \
         seccomp are offered, or accept it with `tool.consent = [\"{}\"]` in a recipe of `train`",
        guarantee.promise(), if breaches.is_empty() { "not try it".to_owned() } else { breaches.join(", ") }, guarantee.key()
    )]
    NoWall {
        /// The guarantee that does not hold.
        guarantee: Guarantee,
        /// What the probe could do.
        breaches: Vec<String>,
    },
    /// `THYME_PYTHON` names an interpreter that will not do.
    #[error(
        "THYME_PYTHON is {python:?}, but {reason}. Point it to a Python 3.9 or newer with numpy, opencv-python-headless and pillow, or unset it"
    )]
    ThymePython {
        /// The value of the variable.
        python: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The managed environment could not be made.
    #[error(
        "`{step}` failed: {reason}. Install python3 with venv and pip (Debian: `apt install python3 python3-venv python3-pip`) and \
         let it reach PyPI once, or set THYME_PYTHON to a Python that has numpy, opencv-python-headless and pillow"
    )]
    MakePython {
        /// The command that failed.
        step: String,
        /// Its last line.
        reason: String,
    },
    /// There is no place for the managed environment.
    #[error(
        "neither XDG_CACHE_HOME nor HOME is set, so there is no place for the sandbox's Python; set one of them or THYME_PYTHON"
    )]
    NoCacheFolder,
    /// A folder could not be used.
    #[error(
        "cannot use the folder {path:?}: {source}. Free space there or make it writable (TMPDIR and XDG_CACHE_HOME move it)"
    )]
    Folder {
        /// A temporary folder, or one of the managed Python.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The interpreter did not start.
    #[error("cannot run {python:?}: {source}. Set THYME_PYTHON to a working Python")]
    Spawn {
        /// Path of the interpreter's executable.
        python: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The interpreter started, but did not get ready.
    #[error("the sandbox's interpreter did not get ready: {reason}. Run `thyme-engine doctor` to see what is missing")]
    Start {
        /// What it said last.
        reason: String,
    },
    /// The seccomp program did not compile.
    #[error("the seccomp filter could not be made: {reason}")]
    Seccomp {
        /// What the compiler said.
        reason: String,
    },
    /// A session could not be forked, even from a new zygote.
    #[error("a sandbox session cannot be started: {reason}. Check that memory and the limit of processes suffice")]
    Fork {
        /// What the system said.
        reason: String,
    },
    /// A wall that stood at the start did not stand in a session, which ran nothing.
    #[error("a sandbox session could not be shut in, so nothing was run: {reason}")]
    WallFell {
        /// What the session said.
        reason: String,
    },
    /// The input image cannot be read.
    #[error("cannot read the image {path:?}: {reason}. Give a PNG, JPEG, WebP, GIF or BMP file")]
    Image {
        /// The file, or the name that the bytes were given under.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no memory in which processes of the sandbox find the input image, or a user's own file.
    #[error(
        "cannot hand the file {name:?} to processes of the sandbox: {source}. Check that memory and the limit of open files suffice"
    )]
    Memory {
        /// The image's name as code sees it, or the file's as its user does.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A produced image cannot be saved.
    #[error("cannot write {path:?}: {source}. Give a folder that exists or can be made, with space left")]
    Output {
        /// The file, or the folder that it was to go to.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
