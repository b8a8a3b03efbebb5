//! A user's own Python file in processes of its own: each loads it once and is called again and again. `worker.py` is the other end.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::SandboxError;
use super::frames::Ended;
use super::image::SIDE_MAX;
use super::memory;
use super::options::SandboxOptions;
use super::process::{Failure, Process, Request};
use super::set_up::SetUp;
use super::shared::Shared;
use super::zygote::{CPU_RUNS, Kind};

/// Loading may take the time of so many calls.
const LOAD_CALLS: u32 = 10;
/// Characters of an error, and of a line of the file.
const ERROR_CHARACTERS: usize = 3000;

/// What a file is for, which says what is looked for in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// `SCHEMA`, and `call(arguments, images)` or a class `Tool` with such a method.
    Tool,
    /// `reward(*, ...)`.
    Reward,
}

/// A user's own file, as all its processes load it.
#[derive(Clone, Debug)]
pub struct UserFile {
    /// As the user names it, for messages.
    pub name: PathBuf,
    /// Its absolute path, `__file__` in it.
    pub place: PathBuf,
    /// Its bytes.
    pub source: Vec<u8>,
    /// What it is for.
    pub kind: FileKind,
}

/// What a file is called with.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// A tool's arguments, or those of a reward by name but for the images.
    pub values: Value,
    /// Images by index; `None` for one whose pixels were not kept.
    pub images: Vec<Option<Arc<RgbImage>>>,
    /// How many of them are a reward's `images`; the others are its `processed_images`.
    pub task_images: usize,
}

/// What came of a call, or of loading.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// What was returned, or why nothing was.
    pub result: Result<Returned, CallError>,
    /// What the file printed, cut.
    pub printed: String,
    /// The process had to be started anew, and what it remembered of earlier calls is lost.
    pub is_new: bool,
}

/// What a file returned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Returned {
    /// A tool's text; a reward's number, or null; of loading, what the file says of itself.
    pub value: Value,
    /// A tool's images.
    pub images: Vec<RgbImage>,
}

/// Why a file returned nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum CallError {
    /// It raised an exception, or returned what it may not.
    Raised {
        /// Type and message of the exception, or what is wrong.
        text: String,
        /// The line of the file; 0 where none had a part in it.
        line: u32,
        /// What stands there.
        source: String,
    },
    /// It took longer than it may, and was stopped.
    Late {
        /// The limit.
        seconds: f64,
    },
    /// Its process ended, or had to be ended: why.
    Ended(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Raised { text, .. } => formatter.write_str(text),
            CallError::Late { seconds } => write!(formatter, "it took more than {seconds} seconds and was stopped"),
            CallError::Ended(reason) => formatter.write_str(reason),
        }
    }
}

impl CallError {
    /// The error with the file, the line and what stands there.
    pub fn with_place(&self, file: &Path) -> String {
        match self {
            CallError::Raised { text, line, source } if *line > 0 => {
                let source = if source.is_empty() { String::new() } else { format!(" ({source})") };
                format!("{}:{line}: {text}{source}", file.display())
            }
            other => format!("{}: {other}", file.display()),
        }
    }
}

/// One process of a user's file. It is forked, and loads the file, when it is first needed, and again when it has ended.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    file: Arc<UserFile>,
    process: Option<Process>,
    /// Time of the calls so far, which the kernel's limit of CPU time bounds.
    called: Duration,
    /// Whether a process has answered a call.
    has_answered: bool,
}

impl Worker {
    /// A worker without a process.
    pub(super) fn new(shared: Arc<Shared>, file: Arc<UserFile>) -> Worker {
        Worker { shared, file, process: None, called: Duration::ZERO, has_answered: false }
    }

    /// Starts the process where there is none, and loads the file: what it says of itself.
    ///
    /// # Errors
    /// When no process can be started; what is wrong with the file is in [`Called`].
    pub fn load(&mut self) -> Result<Called, SandboxError> {
        let deadline = Instant::now() + self.shared.options.timeout * LOAD_CALLS;
        let done = self.begin(deadline);
        self.judged(done, LOAD_CALLS)
    }

    /// Calls the file's function. A process that ended since the last call is replaced first.
    ///
    /// # Errors
    /// When no process can be started; what the file does wrong is in [`Called`].
    pub fn call(&mut self, arguments: &Arguments) -> Result<Called, SandboxError> {
        self.process.take_if(|process| process.expect_silence().is_err()).into_iter().for_each(Process::end);
        let mut is_new = false;
        if self.process.is_none() {
            is_new = std::mem::take(&mut self.has_answered);
            let loaded = self.load()?;
            if loaded.result.is_err() {
                return Ok(loaded);
            }
        }
        let started = Instant::now();
        let done = self.ask(arguments, started + self.shared.options.timeout);
        self.called += started.elapsed();
        let called = self.judged(done, 1)?;
        self.has_answered = true;
        Ok(Called { is_new, ..called })
    }

    /// Whether its process has computed so long that the kernel may soon end it: it had better be replaced between two calls.
    pub(super) fn is_spent(&self) -> bool {
        self.called > self.shared.options.timeout * (CPU_RUNS as u32 / 2)
    }

    fn begin(&mut self, deadline: Instant) -> Result<(WorkerReply, Vec<RgbImage>), Failure> {
        let request = Request::new(json!({"order": "load"}))?;
        let UserFile { name, place, source, kind } = &*self.file;
        let memory = in_memory(source)
            .map_err(|source| SandboxError::Memory { name: name.to_string_lossy().into_owned(), source })?;
        let file_bytes = source.len();
        let header = json!({"name": "file.py", "file_bytes": file_bytes, "file": name, "place": place, "kind": kind});
        self.called = Duration::ZERO;
        let setup = SetUp { kind: Kind::Worker, header, memory: memory.as_fd() };
        let process = Process::begin(&self.shared, &setup, &request, deadline)?;
        answer_of(self.process.insert(process), &request, &self.shared.options, deadline)
    }

    fn ask(&mut self, arguments: &Arguments, deadline: Instant) -> Result<(WorkerReply, Vec<RgbImage>), Failure> {
        let Arguments { values, images, task_images } = arguments;
        let sizes: Vec<Option<(u32, u32)>> =
            images.iter().map(|image| image.as_ref().map(|image| image.dimensions())).collect();
        let header = json!({"order": "call", "arguments": values, "images": sizes, "task_images": task_images});
        let request = Request::new(header)?;
        let blobs: Vec<&[u8]> = images.iter().flatten().map(|image| image.as_raw().as_slice()).collect();
        let process = self.process.as_mut().ok_or(Ended::Gone)?;
        process.ask(&request, &blobs, deadline)?;
        answer_of(process, &request, &self.shared.options, deadline)
    }

    /// What is made of an answer, or of none: then the process is ended. `calls` is whose time was allowed.
    fn judged(
        &mut self,
        done: Result<(WorkerReply, Vec<RgbImage>), Failure>,
        calls: u32,
    ) -> Result<Called, SandboxError> {
        let error = match done {
            Ok((reply, images)) => {
                let cut = |text: String| text.chars().take(ERROR_CHARACTERS).collect();
                let result = match reply.error {
                    None => Ok(Returned { value: reply.value, images }),
                    Some(Raised { text, line, source }) => {
                        Err(CallError::Raised { text: cut(text), line, source: cut(source) })
                    }
                };
                return Ok(Called { result, printed: reply.printed, is_new: false });
            }
            Err(Failure::Ours(error)) => {
                self.end();
                return Err(error);
            }
            Err(Failure::Theirs(ended)) => ended,
        };
        self.end();
        let options = &self.shared.options;
        let reason = match error {
            Ended::Late => {
                let seconds = (options.timeout * calls).as_secs_f64();
                return Ok(Called { result: Err(CallError::Late { seconds }), printed: String::new(), is_new: false });
            }
            Ended::Full => format!("it wrote more than {} bytes of files and was ended", options.disk_bytes),
            Ended::Gone => "its process ended".to_owned(),
            Ended::Malformed(problem) => format!("it disturbed its process, which was ended: {problem}"),
            Ended::Unasked => "it disturbed its process behind its answer, and was ended".to_owned(),
        };
        Ok(Called { result: Err(CallError::Ended(reason)), printed: String::new(), is_new: false })
    }

    fn end(&mut self) {
        self.process.take().into_iter().for_each(Process::end);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// A file's bytes as a process is sent them.
fn in_memory(source: &[u8]) -> io::Result<OwnedFd> {
    let mut memory = memory::unsealed("thyme-file")?;
    memory.write_all(source)?;
    memory::sealed(memory)
}

/// Reads the answer to a request, after which the process rests.
fn answer_of(
    process: &mut Process,
    request: &Request,
    options: &SandboxOptions,
    deadline: Instant,
) -> Result<(WorkerReply, Vec<RgbImage>), Failure> {
    // A character is at most 12 bytes of JSON: of the text, and of what was printed.
    let header = process.read_header(deadline, options.output_characters * 24 + (1 << 20))?;
    let reply = WorkerReply::read(&header, request.nonce(), options)?;
    let pixels = process.read_blobs(deadline, &reply.blobs)?;
    process.rest()?;
    let image = |(&(width, height), pixels): (&(u32, u32), Vec<u8>)| RgbImage::from_raw(width, height, pixels);
    let images: Option<Vec<_>> = reply.images.iter().zip(pixels).map(image).collect();
    Ok((reply, images.ok_or(Ended::Malformed("an image of a wrong size"))?))
}

/// The answer to a request. The file may have written it itself: every field is bounded and checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkerReply {
    nonce: String,
    value: Value,
    images: Vec<(u32, u32)>,
    error: Option<Raised>,
    printed: String,
    blobs: Vec<u64>,
}

/// An exception, or what else is wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raised {
    text: String,
    line: u32,
    source: String,
}

impl WorkerReply {
    /// A header, judged: it answers this request, and the images that it announces are within the bounds.
    fn read(header: &[u8], nonce: &str, options: &SandboxOptions) -> Result<WorkerReply, Ended> {
        let reply: WorkerReply = serde_json::from_slice(header).map_err(|_| Ended::Malformed("not a reply"))?;
        if reply.nonce != nonce {
            return Err(Ended::Malformed("a reply to another request"));
        }
        if reply.images.len() > options.images || reply.images.len() != reply.blobs.len() {
            return Err(Ended::Malformed("a wrong number of images"));
        }
        let mut left = options.image_bytes;
        for (&(width, height), &bytes) in reply.images.iter().zip(&reply.blobs) {
            let sides = 1..=SIDE_MAX;
            let is_right = sides.contains(&width) && sides.contains(&height);
            if !is_right || u64::from(width) * u64::from(height) * 3 != bytes {
                return Err(Ended::Malformed("an image of a wrong size"));
            }
            left = left.checked_sub(bytes).ok_or(Ended::Malformed("more pixels than allowed"))?;
        }
        Ok(reply)
    }
}
