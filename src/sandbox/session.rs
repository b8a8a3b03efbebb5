//! A session: one sequence's process on the host's side, and what came of each of its runs.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::error::SandboxError;
use super::frames::Ended;
use super::image::{InputImage, ProducedImage};
use super::process::{Failure, Process, Request};
use super::repair::Repair;
use super::reply::{Reply, Status};
use super::shared::Shared;

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
    process: Option<Process>,
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
        let request = Request::new(json!({"code": code}))?;
        let process = match &mut self.process {
            Some(process) => {
                process.ask(&request, &[], deadline)?;
                process
            }
            None => {
                self.has_variables = false;
                let setup = self.image.picture.set_up(&self.image.name, self.image.size);
                self.process.insert(Process::begin(&self.shared, &setup, &request, deadline)?)
            }
        };
        // A character is at most 12 bytes of JSON; labels and messages are short beside the rest.
        let header = process.read_header(deadline, options.output_characters * 12 + (1 << 20))?;
        let reply = Reply::read(&header, request.nonce(), options, self.image.size)?;
        let blobs = process.read_blobs(deadline, reply.blobs())?;
        process.rest()?;
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
        if let Some(process) = self.process.take() {
            process.end();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_process();
    }
}
