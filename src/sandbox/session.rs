//! A session: one sequence's process on the host's side, and what came of each of its runs.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Shared;
use super::error::SandboxError;
use super::image::{InputImage, PRODUCED_DECODE_BYTES, ProducedImage, decode, flatten};
use super::repair::Repair;
use super::zygote::{self, Ended, Limit, Wire, Zygote};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The code ran to its end.
    Ok,
    /// It raised, did not parse, or its process died.
    Error,
    /// The deadline passed, and the process was killed.
    Timeout,
    /// A wall stopped it.
    Denied,
}

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
    process: Option<(Arc<Zygote>, Wire)>,
    /// Runs since the process was forked.
    rounds: u64,
    /// A process with variables was killed or died, and no run since has said so.
    lost: bool,
}

/// What a session's process answers. It is not trusted.
#[derive(Deserialize)]
struct Reply {
    broken: Option<String>,
    status: Option<Status>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    images: Vec<String>,
    #[serde(default)]
    repairs: Vec<String>,
    #[serde(default)]
    round: u64,
}

impl Session {
    /// A session whose process is forked at the first run.
    pub(super) fn new(shared: Arc<Shared>, image: InputImage) -> Session {
        Session { shared, image, process: None, rounds: 0, lost: false }
    }

    /// Runs code to its end or to the deadline. Errors are ours; the code's own are in the [`Execution`].
    pub fn run(&mut self, code: &str) -> Result<Execution, SandboxError> {
        let started = Instant::now();
        let variables_lost = std::mem::take(&mut self.lost);
        let mut execution = match self.exchange(code, started) {
            Ok((reply, blobs)) => {
                if let Some(reason) = reply.broken {
                    self.end_process();
                    return Err(SandboxError::WallFell { reason });
                }
                self.execution_of(reply, blobs)
            }
            Err(Failure::Ours(error)) => return Err(error),
            Err(Failure::Theirs(ended)) => self.after_the_end(&ended),
        };
        if variables_lost && execution.status != Status::Ok {
            execution.text.push_str("\n(The variables of earlier runs were lost.)");
        }
        execution.variables_lost = variables_lost;
        execution.seconds = started.elapsed().as_secs_f64();
        Ok(execution)
    }

    /// One request and its reply.
    fn exchange(&mut self, code: &str, started: Instant) -> Result<(Reply, Vec<Vec<u8>>), Failure> {
        let options = &self.shared.options;
        let deadline = started + options.timeout;
        let is_new = self.process.is_none();
        if is_new {
            self.process = Some(self.shared.connect().map_err(Failure::Ours)?);
            self.rounds = 0;
        }
        let Some((_, wire)) = &mut self.process else { return Err(Failure::Theirs(Ended::Gone)) };
        let limit = Limit { deadline, scratch: wire.scratch.as_ref().map(|scratch| (scratch, options.disk_bytes)) };
        if is_new {
            let setup = json!({"name": self.image.name, "size": [self.image.size.0, self.image.size.1]});
            zygote::write_frame(&mut wire.stream, setup, &[&self.image.bytes], &limit)?;
        }
        self.rounds += 1;
        zygote::write_frame(&mut wire.stream, json!({"code": code}), &[], &limit)?;
        // A character is at most 12 bytes of JSON; paths and messages are short beside the rest.
        let header_max = options.output_bytes * 12 + (1 << 20);
        let (header, blobs) = zygote::read_frame(&mut wire.stream, &limit, header_max, options.reply_bytes)?;
        let reply: Reply = serde_json::from_slice(&header).map_err(|_| Ended::Malformed("not a reply"))?;
        if reply.broken.is_none() && (reply.round != self.rounds || reply.images.len() != blobs.len()) {
            return Err(Ended::Malformed("a reply to another request").into());
        }
        Ok((reply, blobs))
    }

    fn execution_of(&self, reply: Reply, blobs: Vec<Vec<u8>>) -> Execution {
        let options = &self.shared.options;
        // The interpreter has cut the text; one that lies about it is cut here.
        let mut text: String = reply.text.chars().take(options.output_bytes + (8 << 10)).collect();
        let mut images = Vec::new();
        for (path, bytes) in reply.images.into_iter().zip(blobs).take(options.images) {
            match decode(&bytes, PRODUCED_DECODE_BYTES) {
                Ok((image, _)) => images.push(ProducedImage { path, bytes, image: flatten(image) }),
                Err(reason) => text.push_str(&format!("\n[{path} cannot be shown: {reason}]")),
            }
        }
        Execution {
            status: reply.status.unwrap_or(Status::Error),
            text,
            images,
            seconds: 0.0,
            repairs: Repair::of_names(&reply.repairs),
            variables_lost: false,
        }
    }

    /// The process did not answer: it is ended, and the execution says why.
    fn after_the_end(&mut self, ended: &Ended) -> Execution {
        let had_variables = self.rounds > 1;
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
        };
        if had_variables {
            text.push_str(" The variables of earlier runs are lost.");
        }
        Execution { status, text, images: Vec::new(), seconds: 0.0, repairs: Vec::new(), variables_lost: false }
    }

    fn end_process(&mut self) {
        if let Some((zygote, wire)) = self.process.take() {
            zygote.kill(wire);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_process();
    }
}

/// Why there is no reply: the sandbox failed, or the code's process did.
enum Failure {
    Ours(SandboxError),
    Theirs(Ended),
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Failure {
        Failure::Theirs(ended)
    }
}
