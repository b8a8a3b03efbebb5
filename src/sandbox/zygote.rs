//! The preforked interpreter: one Python process that forks a session for each connection to its socket, and ends, stops or continues
//! one on request. `zygote.py` is the other end.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use super::calls;
use super::error::SandboxError;
use super::frames::{self, Limit};
use super::guarantee::{Attempt, Guarantee};
use super::interpreter::Interpreter;
use super::jail::Walls;
use super::options::SandboxOptions;
use super::probe::Outside;
use super::scratch::{Scratch, remove_whole};

/// How long the end of a killed process is waited for.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked whether a process has ended.
const END_LOOK: Duration = Duration::from_millis(10);
/// A cold import of numpy and OpenCV on a busy machine with a slow disk.
const START_SECONDS: u64 = 120;
/// The zygote answers a connection in milliseconds; beyond this it counts as dead.
const ANSWER_SECONDS: u64 = 20;
/// The CPU time of a session is limited to this many runs' time: the second line behind the watchdog.
pub(super) const CPU_RUNS: u64 = 64;

/// A running zygote, killed with all its sessions when dropped.
#[derive(Debug)]
pub(super) struct Zygote {
    folder: TempDir,
    child: Mutex<Child>,
    control: Mutex<UnixStream>,
    /// A session asked for ahead of time, so that its fork costs the next sequence nothing.
    spare: Mutex<Option<UnixStream>>,
    /// Removes the folders of ended sessions, where they lie on the host.
    remover: Option<Remover>,
    /// What stands here.
    pub(super) walls: Walls,
    has_mounts: bool,
}

/// What the zygote says of itself once it is ready.
#[derive(Deserialize)]
struct Greeting {
    failure: Option<String>,
    #[serde(default)]
    jail: Vec<(String, String)>,
    #[serde(default)]
    session: Vec<(String, String)>,
    #[serde(default)]
    attempts: Vec<Attempt>,
    /// The process of the trial session.
    #[serde(default)]
    trial: u32,
    #[serde(default)]
    has_mounts: bool,
}

impl Zygote {
    /// Starts the interpreter, waits until it has imported the modules and raised its walls, and judges them.
    pub(super) fn start(options: &SandboxOptions, interpreter: &Interpreter) -> Result<Zygote, SandboxError> {
        let folder = tempfile::Builder::new().prefix("thyme-sandbox-").tempdir();
        let folder = folder.map_err(|source| SandboxError::Folder { path: std::env::temp_dir(), source })?;
        let in_folder = |source: io::Error| SandboxError::Folder { path: folder.path().to_owned(), source };
        lay_out(folder.path(), options.as_user).map_err(in_folder)?;
        let outside = Outside::new(folder.path(), options.as_user).map_err(in_folder)?;
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).map_err(in_folder)?;
        let log = fs::File::create(folder.path().join("log")).map_err(in_folder)?;
        let mut command = Command::new(&interpreter.path);
        command.arg(folder.path().join("zygote.py")).current_dir("/").env_clear();
        for name in ["HOME", "LD_LIBRARY_PATH"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        // One thread, and the same hashes in every run.
        for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"] {
            command.env(name, "1");
        }
        // Large blocks in huge pages: a fresh process pays for each page that it touches.
        command.envs([("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"), ("OPENCV_OPENCL_RUNTIME", "disabled")]);
        command.envs([("PYTHONHASHSEED", "0"), ("LC_ALL", "C.UTF-8")]);
        let child = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log).spawn();
        // The command holds our copy of the listening socket: with it gone, a dead zygote refuses connections.
        drop(command);
        let child = child.map_err(|source| SandboxError::Spawn { python: interpreter.path.clone(), source })?;
        let mut child = Reaped(Some(child));
        let mut control = UnixStream::connect(&socket).map_err(in_folder)?;
        let greeting = greet(&mut control, options, folder.path(), &outside);
        let greeting = greeting.map_err(|reason| SandboxError::Start { reason: with_log(reason, folder.path()) })?;
        if let Some(reason) = greeting.failure {
            return Err(SandboxError::Start { reason });
        }
        let raised =
            greeting.jail.iter().chain(&greeting.session).map(|(key, mechanism)| (key.as_str(), mechanism.as_str()));
        let mut attempts = greeting.attempts;
        let trial = Scratch { folder: folder.path().join("scratch/0"), process: greeting.trial };
        attempts.extend(outside.seen_of(&trial, greeting.has_mounts));
        let refused = end_trial(&mut control);
        let refused = refused.map_err(|reason| SandboxError::Start { reason: with_log(reason, folder.path()) })?;
        let name = "start another program".to_owned();
        attempts.push(Attempt { guarantee: Guarantee::Processes, name, refused });
        remove_whole(&trial.folder);
        drop(outside);
        let walls = Walls::new(raised, attempts);
        walls.judge(&options.consent)?;
        let has_mounts = greeting.has_mounts;
        let spare = Mutex::new(asked(folder.path(), Kind::Session).ok());
        let remover = (!has_mounts).then(Remover::start).transpose().map_err(in_folder)?;
        let child = child.0.take().ok_or_else(|| SandboxError::Start { reason: "the process is gone".into() })?;
        Ok(Zygote { folder, child: Mutex::new(child), control: Mutex::new(control), spare, remover, walls, has_mounts })
    }

    /// The process that we started; those of the jail end with it.
    pub(super) fn process(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Whether the process has ended, or does so within a moment.
    pub(super) fn has_ended(&self) -> bool {
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            match self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait() {
                Ok(None) if Instant::now() < deadline => {}
                found => return !matches!(found, Ok(None)),
            }
            std::thread::sleep(END_LOOK);
        }
    }

    /// A new process: its connection, after the zygote has forked it. The fork of the one asked for ahead may have failed long ago, so a second is
    /// asked for.
    pub(super) fn connect(&self, kind: Kind) -> io::Result<Connection> {
        let next = || self.take_next(kind);
        next().or_else(|error| if error.raw_os_error().is_some() { next() } else { Err(error) })
    }

    fn take_next(&self, kind: Kind) -> io::Result<Connection> {
        // That this connects shows that the zygote is alive, and with it the spare.
        let next = asked(self.folder.path(), kind)?;
        let mut stream = match kind {
            Kind::Session => {
                let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).replace(next);
                spare.map_or_else(|| asked(self.folder.path(), kind), Ok)?
            }
            Kind::Worker => next,
        };
        let mut hello = [0; 8];
        let limit = Limit { deadline: Instant::now() + Duration::from_secs(ANSWER_SECONDS), scratch: None };
        frames::read_exactly(&mut stream, &mut hello, &limit).map_err(|ended| io::Error::other(ended.to_string()))?;
        let [process, number] =
            [0, 4].map(|at| u32::from_le_bytes([hello[at], hello[at + 1], hello[at + 2], hello[at + 3]]));
        if process == 0 {
            return Err(io::Error::from_raw_os_error(number as i32));
        }
        let folder = self.folder.path().join("scratch").join(number.to_string());
        let scratch = (!self.has_mounts).then_some(Scratch { folder, process });
        Ok(Connection { stream, process, scratch })
    }

    /// Ends a session's process, whatever it is doing, and has what it wrote removed. Waits for neither.
    pub(super) fn kill(&self, connection: Connection) {
        self.signal(&connection, Signal::Kill);
        if let Some(remover) = &self.remover {
            remover.remove(connection);
        }
    }

    /// Tells the zygote what to do to a session's process. Orders are carried out in the order in which they are given.
    pub(super) fn signal(&self, connection: &Connection, signal: Signal) {
        let mut message = [0; 8];
        message[..4].copy_from_slice(&connection.process.to_le_bytes());
        message[4..].copy_from_slice(&(signal as u32).to_le_bytes());
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if control.write_all(&message).is_err() {
            // A zygote that cannot be told is ended, and its sessions with it.
            drop(self.child.lock().unwrap_or_else(PoisonError::into_inner).kill());
        }
    }
}

/// A connection on which the zygote, whose folder this is, is asked for a process.
fn asked(folder: &Path, kind: Kind) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(folder.join("socket"))?;
    // Where it cannot fork it has perhaps answered and closed the connection already: what it said is read in any case.
    drop(stream.write_all(&[kind as u8]));
    Ok(stream)
}

/// What a process is for, which it is made ready for before it is set up; the numbers are those of `KINDS` in `zygote.py`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Model code.
    Session = 0,
    /// A user's own file.
    Worker = 1,
}

/// What the zygote can do to a session's process; the numbers are those of `SIGNALS` in `zygote.py`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// End it at once.
    Kill = 0,
    /// Let none of its threads run.
    Stop = 1,
    /// Let it run again.
    Continue = 2,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Both fail only when the process has ended already.
        drop(child.kill());
        drop(child.wait());
        // Its thread is joined before the folder goes in which it works.
        drop(self.remover.take());
        remove_whole(self.folder.path());
    }
}

/// A thread that waits for the ends of killed sessions and removes their folders: code that left much behind holds up no other work.
#[derive(Debug)]
struct Remover {
    ended: Option<Sender<Connection>>,
    thread: Option<JoinHandle<()>>,
}

impl Remover {
    fn start() -> io::Result<Remover> {
        let (ended, connections) = channel::<Connection>();
        let thread = std::thread::Builder::new().name("sandbox-remover".to_owned()).spawn(move || {
            for connection in connections {
                frames::wait_for_the_end(&connection.stream, KILL_WAIT);
                if let Some(scratch) = &connection.scratch {
                    remove_whole(&scratch.folder);
                }
            }
        })?;
        Ok(Remover { ended: Some(ended), thread: Some(thread) })
    }

    fn remove(&self, connection: Connection) {
        // A thread that has ended took a panic with it; the zygote's end removes the folder then.
        drop(self.ended.as_ref().map(|ended| ended.send(connection)));
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        drop(self.ended.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A child process that is ended if the start fails half-way.
struct Reaped(Option<Child>);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The folder of one zygote: its code, the mount point of its root, and scratch folders where mounts cannot be had.
fn lay_out(folder: &Path, as_user: Option<u32>) -> io::Result<()> {
    // Others may pass through (the sessions' users do), not look.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    for (name, code) in [
        ("zygote.py", include_str!("zygote.py")),
        ("frames.py", include_str!("frames.py")),
        ("jail.py", include_str!("jail.py")),
        ("probe.py", include_str!("probe.py")),
        ("session.py", include_str!("session.py")),
        ("shown.py", include_str!("shown.py")),
        ("guard.py", include_str!("guard.py")),
        ("libraries.py", include_str!("libraries.py")),
        ("old_names.py", include_str!("old_names.py")),
        ("parts.py", include_str!("parts.py")),
        ("paths.py", include_str!("paths.py")),
        ("picture.py", include_str!("picture.py")),
        ("printed.py", include_str!("printed.py")),
        ("repair.py", include_str!("repair.py")),
        ("streams.py", include_str!("streams.py")),
        ("worker.py", include_str!("worker.py")),
    ] {
        fs::write(folder.join(name), code)?;
    }
    for (name, mode) in [("root", 0o755), ("scratch", 0o711)] {
        fs::create_dir(folder.join(name))?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode))?;
    }
    if rustix::process::geteuid().is_root() && as_user.is_some() {
        std::os::unix::fs::chown(folder.join("scratch"), as_user, as_user)?;
    }
    Ok(())
}

/// Sends the options and waits for the greeting.
fn greet(
    control: &mut UnixStream,
    options: &SandboxOptions,
    folder: &Path,
    outside: &Outside,
) -> Result<Greeting, String> {
    let programs = calls::programs(options.offered.seccomp).map_err(|error| error.to_string())?;
    let hex = |program: &[u8]| program.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let header = json!({
        "seccomp": {
            "allowed": hex(&programs.allowed),
            "locks": hex(&programs.locks),
            "attributes": hex(&programs.attributes),
        },
        "offered": options.offered,
        "probe": outside.places(),
        "as_user": options.as_user,
        "read": options.read,
        "new_root": folder.join("root"),
        "scratch_root": folder.join("scratch"),
        "memory_bytes": options.memory_bytes,
        "disk_bytes": options.disk_bytes,
        "output_characters": options.output_characters,
        "images": options.images,
        "image_bytes": options.image_bytes,
        "cpu_seconds": options.timeout.as_secs().saturating_add(1).saturating_mul(CPU_RUNS),
    });
    let limit = Limit { deadline: Instant::now() + Duration::from_secs(START_SECONDS), scratch: None };
    frames::write_frame(control, header, &[], &limit).map_err(|ended| ended.to_string())?;
    let header = frames::read_header(control, &limit, 1 << 20).map_err(|ended| ended.to_string())?;
    serde_json::from_slice(&header).map_err(|error| error.to_string())
}

/// Lets the trial session try its last, which would end it: to start another program. Whether that was refused.
fn end_trial(control: &mut UnixStream) -> Result<bool, String> {
    #[derive(Deserialize)]
    struct LastAttempt {
        refused: bool,
    }
    let limit = Limit { deadline: Instant::now() + Duration::from_secs(ANSWER_SECONDS), scratch: None };
    frames::write_frame(control, json!({}), &[], &limit).map_err(|ended| ended.to_string())?;
    let header = frames::read_header(control, &limit, 1 << 10).map_err(|ended| ended.to_string())?;
    serde_json::from_slice(&header).map(|last: LastAttempt| last.refused).map_err(|error| error.to_string())
}

fn with_log(reason: String, folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    match log.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{reason}; the last line of its log: {line}"),
        None => reason,
    }
}

/// The connection to one session's process.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    process: u32,
    /// The scratch folder on the host, where the session could not mount its own.
    scratch: Option<Scratch>,
}

impl Connection {
    /// What bounds the next exchange.
    pub(super) fn limit(&self, deadline: Instant, options: &SandboxOptions) -> Limit {
        Limit { deadline, scratch: self.scratch.clone().map(|scratch| (scratch, options.disk_bytes)) }
    }
}
