//! A session: one sequence's process on the host's side, and what came of each of its runs.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::error::SandboxError;
use super::frames::{self, Ended};
use super::image::{InputImage, ProducedImage};
use super::repair::Repair;
use super::reply::{Reply, Status, judge_readiness};
use super::shared::Shared;
use super::zygote::{Connection, Signal, Zygote};

/// Bytes of the answer to the set-up.
const READINESS_BYTES: usize = 64 << 10;

/// What came of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// How it ended.
    pub status: Status,
    /// What was printed, without lines that only name a produced image; after it the error, if there was one.
    pub text: String,
    /// The images, in the order in which they were named.
    pub images: Vec<ProducedImage>,
    /// Wall time, the start of the session included.
    pub seconds: f64,
    /// The repairs that were made.
    pub repairs: Vec<Repair>,
    /// This run began without the variables of earlier runs, because their process was killed or died.
    pub variables_lost: bool,
}

/// One sequence's process: variables persist through its runs. Dropping it ends the process.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    image: InputImage,
    process: Option<(Arc<Zygote>, Connection)>,
    /// Whether the process has answered a request, so that it has variables.
    has_variables: bool,
    /// A process with variables was killed or died, and no run since has said so.
    lost: bool,
}

impl Session {
    /// A session whose process is forked at the first run.
    pub(super) fn new(shared: Arc<Shared>, image: InputImage) -> Session {
        Session { shared, image, process: None, has_variables: false, lost: false }
    }

    /// Runs code to its end or to the deadline. Errors are ours; the code's own are in the [`Execution`].
    pub fn run(&mut self, code: &str) -> Result<Execution, SandboxError> {
        let started = Instant::now();
        let variables_lost = std::mem::take(&mut self.lost);
        let mut execution = match self.exchange(code, started) {
            Ok(execution) => execution,
            Err(Failure::Ours(error)) => {
                self.end_process();
                self.lost = variables_lost || std::mem::take(&mut self.has_variables);
                return Err(error);
            }
            Err(Failure::Theirs(ended)) => self.after_the_end(&ended),
        };
        if variables_lost && execution.status != Status::Ok {
            execution.text.push_str("\n(The variables of earlier runs were lost.)");
        }
        execution.variables_lost = variables_lost;
        execution.seconds = started.elapsed().as_secs_f64();
        Ok(execution)
    }

    /// One request and its reply. The process runs only in between: it is stopped once it has answered.
    fn exchange(&mut self, code: &str, started: Instant) -> Result<Execution, Failure> {
        let options = &self.shared.options;
        let deadline = started + options.timeout;
        let nonce = format!("{:016x}{:016x}", random()?, random()?);
        let request = json!({"code": code, "nonce": nonce});
        let (zygote, connection) = match &mut self.process {
            Some((zygote, connection)) => {
                // What it said since its last answer, it said unasked: nothing that it says is believed any more.
                frames::expect_silence(&connection.stream).map_err(Ended::before_the_run)?;
                zygote.signal(connection, Signal::Continue);
                let limit = connection.limit(deadline, options);
                frames::write_frame(&mut connection.stream, request, &[], &limit)?;
                (zygote, connection)
            }
            None => {
                self.has_variables = false;
                let (zygote, connection) = self.process.insert(begin(&self.shared, &self.image, &request, deadline)?);
                (zygote, connection)
            }
        };
        let limit = connection.limit(deadline, options);
        // A character is at most 12 bytes of JSON; labels and messages are short beside the rest.
        let header_max = options.output_characters * 12 + (1 << 20);
        let header = frames::read_header(&mut connection.stream, &limit, header_max)?;
        let reply = Reply::read(&header, &nonce, options, self.image.size)?;
        let mut blobs = Vec::new();
        for &bytes in reply.blobs() {
            blobs.push(frames::read_blob(&mut connection.stream, &limit, bytes as usize)?);
        }
        frames::expect_silence(&connection.stream)?;
        zygote.signal(connection, Signal::Stop);
        self.has_variables = true;
        Ok(Execution {
            status: reply.status,
            text: reply.text(options),
            repairs: Repair::of_names(&reply.repairs),
            images: reply.images(blobs)?,
            seconds: 0.0,
            variables_lost: false,
        })
    }

    /// The process did not answer, or not as it must: it is ended, and the execution says why.
    fn after_the_end(&mut self, ended: &Ended) -> Execution {
        self.end_process();
        self.lost = true;
        let (status, mut text) = match ended {
            Ended::Late => {
                let seconds = self.shared.options.timeout.as_secs_f64();
                (Status::Timeout, format!("Execution timed out after {seconds} seconds."))
            }
            Ended::Full => (
                Status::Error,
                format!("The code wrote more than {} bytes of files and was ended.", self.shared.options.disk_bytes),
            ),
            Ended::Gone => (Status::Error, "The code ended its own interpreter.".to_owned()),
            Ended::Malformed(_) => (Status::Denied, "The code disturbed the interpreter and was ended.".to_owned()),
            Ended::Unasked => (
                Status::Denied,
                "The code was not run: that of an earlier run had disturbed the interpreter, which was ended."
                    .to_owned(),
            ),
        };
        if std::mem::take(&mut self.has_variables) {
            text.push_str(" The variables of earlier runs are lost.");
        }
        Execution { status, text, images: Vec::new(), seconds: 0.0, repairs: Vec::new(), variables_lost: false }
    }

    fn end_process(&mut self) {
        if let Some((zygote, connection)) = self.process.take() {
            zygote.kill(connection);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_process();
    }
}

/// A new session's process that has been sent its set-up and its first request, after its answer to the set-up: its walls stand. One
/// that ends before it is ready has run nothing, and another is taken, once.
fn begin(
    shared: &Shared,
    image: &InputImage,
    request: &serde_json::Value,
    deadline: Instant,
) -> Result<(Arc<Zygote>, Connection), Failure> {
    let attempt = || {
        let (zygote, mut connection) = shared.connect().map_err(Failure::Ours)?;
        match set_up(&mut connection, shared, image, request, deadline) {
            Ok(()) => Ok((zygote, connection)),
            Err(failure) => {
                zygote.kill(connection);
                Err(failure)
            }
        }
    };
    match attempt() {
        Err(Failure::Theirs(Ended::Gone)) => attempt(),
        done => done,
    }
    .map_err(|failure| match failure {
        Failure::Theirs(ended @ (Ended::Gone | Ended::Malformed(_))) => {
            Failure::Ours(SandboxError::Fork { reason: format!("before it was ready, {ended}") })
        }
        other => other,
    })
}

/// The process reads the request only after it has answered the set-up, so the first answer is not that of code.
fn set_up(
    connection: &mut Connection,
    shared: &Shared,
    image: &InputImage,
    request: &serde_json::Value,
    deadline: Instant,
) -> Result<(), Failure> {
    let limit = connection.limit(deadline, &shared.options);
    let setup = json!({"name": image.name, "size": [image.size.0, image.size.1]});
    frames::write_frame(&mut connection.stream, setup, &[&image.bytes], &limit)?;
    // A process that cannot be shut in answers why and ends, perhaps before it can be sent more.
    let sent = frames::write_frame(&mut connection.stream, request.clone(), &[], &limit);
    let header = frames::read_header(&mut connection.stream, &limit, READINESS_BYTES)?;
    judge_readiness(&header)?;
    Ok(sent?)
}

/// A number that nobody can guess.
fn random() -> Result<u64, SandboxError> {
    getrandom::u64().map_err(|error| SandboxError::Fork { reason: format!("no random number: {error}") })
}

/// Why there is no reply: the sandbox failed, or the code's process did.
enum Failure {
    Ours(SandboxError),
    Theirs(Ended),
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Failure {
        Failure::Ours(error)
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Failure {
        Failure::Theirs(ended)
    }
}
