//! Work that may end a process, by its stack, its memory or its time: it runs in a child, which is this program again, and whoever asks for it
//! hears that it failed. A child does one job after the other; frames on its pipes are a length of four bytes and JSON.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Stack of [`on_large_stack`]; pages are taken as they are touched.
///
/// Of the forms that are accepted, chains of `$ref`, `allOf` and rules as long as 32 KiB allow need the most: between 4 and 8 MiB without
/// optimisation. The rest is for templates, which a child tries first.
const STACK_BYTES: usize = 128 << 20;
/// Addresses that a child may take: its stacks, what the allocator sets aside for its threads, and 0.5 GiB to work with.
const ADDRESS_BYTES_MAX: u64 = 1 << 30;
/// Memory that a child may keep between two jobs beyond what it had before the first.
const KEPT_BYTES_MAX: u64 = 16 << 20;
/// A frame at most: a conversation without its pictures, or a vocabulary.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// A child that has just begun is ready within this time.
const START_SECONDS_MAX: u64 = 60;

/// Why a job was not done.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum IsolatedError {
    /// The job itself cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The child ended.
    #[error("it takes more memory or a deeper stack than it may have; make it smaller, or nest it less")]
    Died,
    /// The child was stopped.
    #[error("it takes longer than {0} seconds; make it smaller")]
    Late(u64),
    /// There is no child.
    #[error("a process for it cannot be used: {0}; look at the limits of processes and memory of this machine")]
    Unusable(String),
}

/// Children for one kind of work, each of which does one job at a time. One starts when a job comes and all others are at work, and anew after
/// a job that ended it.
pub struct Isolated {
    program: PathBuf,
    arguments: Vec<String>,
    /// What each child is told first.
    preparation: Vec<u8>,
    limit_seconds: u64,
    /// Children at most; when all are at work, a job waits for one.
    children_max: usize,
    pool: Mutex<Pool>,
    freed: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Running>,
    /// How many are at work or start.
    busy: usize,
}

/// Where a child works, free again when it is dropped.
struct Place<'a> {
    isolated: &'a Isolated,
    /// The child, if it goes on.
    child: Option<Running>,
}

/// A child, and the frames that come from it.
struct Running {
    child: Child,
    replies: Receiver<Vec<u8>>,
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    result: Result<Value, String>,
    /// The child ends after this one.
    is_last: bool,
}

impl Isolated {
    /// Children of `program` with these arguments, up to so many at once, of which each job may take so many seconds.
    pub fn new(program: PathBuf, arguments: &[&str], children_max: usize, limit_seconds: u64) -> Isolated {
        Isolated {
            program,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            preparation: b"null".to_vec(),
            limit_seconds,
            children_max: children_max.max(1),
            pool: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// The same for other work that each child is told of when it starts.
    pub fn prepared(&self, preparation: &impl Serialize) -> Isolated {
        Isolated {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            preparation: json(preparation),
            limit_seconds: self.limit_seconds,
            children_max: self.children_max,
            pool: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Has a job done.
    ///
    /// # Errors
    /// What the job's own fault is, or that it ended or outlasted the child.
    pub fn call(&self, job: &impl Serialize) -> Result<Value, IsolatedError> {
        let mut place = Place::wait(self);
        let living = place.child.take().and_then(Running::if_living);
        let mut running = living.map_or_else(|| Running::start(self), Ok)?;
        let answer = running.ask(&json(job), self.limit_seconds)?;
        // Dropping it waits for its end.
        if !answer.is_last {
            place.child = Some(running);
        }
        answer.result.map_err(IsolatedError::Refused)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Waits until fewer than all are at work; takes a child that is idle, if there is one.
    fn wait(isolated: &Isolated) -> Place<'_> {
        let is_full = |pool: &mut Pool| pool.busy >= isolated.children_max;
        let mut pool = isolated.freed.wait_while(isolated.pool(), is_full).unwrap_or_else(PoisonError::into_inner);
        pool.busy += 1;
        Place { isolated, child: pool.idle.pop() }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut pool = self.isolated.pool();
        pool.busy -= 1;
        pool.idle.extend(self.child.take());
        drop(pool);
        self.isolated.freed.notify_one();
    }
}

impl std::fmt::Debug for Isolated {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Isolated").field("arguments", &self.arguments).finish_non_exhaustive()
    }
}

impl Running {
    /// The child, unless somebody ended it between two jobs.
    fn if_living(mut self) -> Option<Running> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    fn start(isolated: &Isolated) -> Result<Running, IsolatedError> {
        let unusable = |error: io::Error| IsolatedError::Unusable(error.to_string());
        let mut command = Command::new(&isolated.program);
        command.args(&isolated.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // What it says of its end is said by whoever waits for it, and to trace it takes memory.
        command.env("RUST_BACKTRACE", "0");
        // Memory that a job had goes back to the system.
        command.envs([
            ("MALLOC_ARENA_MAX", "2"),
            ("MALLOC_TRIM_THRESHOLD_", "131072"),
            ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ]);
        // Ctrl-C is for its parent, which may have requests to answer; it ends with its parent.
        command.process_group(0);
        let mut child = command.spawn().map_err(unusable)?;
        let (mut stdout, (send, replies)) = (child.stdout.take(), channel());
        let listen = move || {
            while let Some(Ok(frame)) = stdout.as_mut().map(read_frame) {
                if send.send(frame).is_err() {
                    return;
                }
            }
        };
        // It ends with the child.
        std::thread::Builder::new().name("isolated".to_owned()).spawn(listen).map_err(unusable)?;
        let mut running = Running { child, replies };
        let ready = running.ask(&isolated.preparation, START_SECONDS_MAX);
        let reason = match ready {
            Ok(Answer { result: Ok(_), .. }) => return Ok(running),
            Ok(Answer { result: Err(reason), .. }) => reason,
            Err(error) => error.to_string(),
        };
        Err(IsolatedError::Unusable(reason))
    }

    fn ask(&mut self, frame: &[u8], limit_seconds: u64) -> Result<Answer, IsolatedError> {
        let Some(stdin) = &mut self.child.stdin else { return Err(IsolatedError::Died) };
        write_frame(stdin, frame).map_err(|_| IsolatedError::Died)?;
        let reply = self.replies.recv_timeout(Duration::from_secs(limit_seconds)).map_err(|error| match error {
            RecvTimeoutError::Timeout => IsolatedError::Late(limit_seconds),
            RecvTimeoutError::Disconnected => IsolatedError::Died,
        })?;
        serde_json::from_slice(&reply).map_err(|error| IsolatedError::Unusable(error.to_string()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side: says of the first frame whether it can be worked with, then does jobs until nobody sends any. `start` makes of the first
/// frame what each job gets.
///
/// # Errors
/// When its limits cannot be set, or nobody listens.
pub fn serve_jobs<S: Send + Sync>(
    start: impl FnOnce(Value) -> Result<S, String> + Send,
    work: impl Fn(&S, Value) -> Result<Value, String> + Send + Sync,
) -> io::Result<()> {
    setrlimit(Resource::As, Rlimit { current: Some(ADDRESS_BYTES_MAX), maximum: Some(ADDRESS_BYTES_MAX) })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let frames = frames_of_stdin()?;
    let mut stdout = io::stdout().lock();
    let Ok(first) = frames.recv() else { return Ok(()) };
    let state = guarded(|| start(parse(&first)?));
    let (state, ready) = match state {
        Ok(state) => (Some(state), Ok(Value::Null)),
        Err(reason) => (None, Err(reason)),
    };
    write_frame(&mut stdout, &json(&Answer { result: ready, is_last: state.is_none() }))?;
    let (Some(state), before) = (state, resident_bytes()) else { return Ok(()) };
    while let Ok(frame) = frames.recv() {
        let result = guarded(|| work(&state, parse(&frame)?));
        let is_last = resident_bytes() > before + KEPT_BYTES_MAX;
        write_frame(&mut stdout, &json(&Answer { result, is_last }))?;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Frames as they come. When no more can come the process ends, whatever it is doing.
fn frames_of_stdin() -> io::Result<Receiver<Vec<u8>>> {
    let (send, frames) = channel();
    let listen = move || {
        while let Ok(frame) = read_frame(&mut io::stdin().lock()) {
            if send.send(frame).is_err() {
                break;
            }
        }
        std::process::exit(0);
    };
    std::thread::Builder::new().name("frames".to_owned()).spawn(listen)?;
    Ok(frames)
}

/// Runs work on a large stack; a panic in it is an error.
fn guarded<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    let failed = "it meets a fault of this program; write it in another way";
    on_large_stack(|| catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(failed.to_owned())))
        .unwrap_or_else(|error| Err(error.to_string()))
}

/// Runs work on a thread with a stack that suffices for what is nested deeply, and there drops what it made of it.
///
/// # Errors
/// When there is no room for the stack.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("large stack".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work)?;
        thread.join().map_err(|panic| -> io::Error { std::panic::resume_unwind(panic) })
    })
}

fn parse(frame: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(frame).map_err(|error| error.to_string())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("keys of jobs and answers are texts")
}

/// Memory of this process that is in use; nothing where `/proc` does not say.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    to.write_all(&(frame.len() as u32).to_le_bytes())?;
    to.write_all(frame)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A child whose jobs are numbers of one digit: so many seconds it sleeps.
    const SLEEPER: &str = r#"
        answer() { printf '\046\000\000\000{"result":{"Ok":null},"is_last":false}'; }
        head -c 8 >/dev/null; answer
        while s=$(head -c 5 | tail -c 1) && [ -n "$s" ]; do sleep "$s"; answer; done
    "#;

    #[test]
    fn a_short_job_passes_a_long_one_where_there_are_two_children() {
        let seconds_beside_a_long_job = |children: usize| {
            let isolated = Isolated::new("/bin/sh".into(), &["-c", SLEEPER], children, 9);
            std::thread::scope(|scope| {
                scope.spawn(|| isolated.call(&2).unwrap());
                std::thread::sleep(Duration::from_millis(500));
                let began = Instant::now();
                isolated.call(&0).unwrap();
                began.elapsed().as_secs_f64()
            })
        };
        assert!(seconds_beside_a_long_job(2) < 1.0);
        assert!(seconds_beside_a_long_job(1) > 1.0);
    }
}
