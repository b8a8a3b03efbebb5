//! One forked process on the host's side: it is set up, asked and answered, and stopped in between, whatever runs in it.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::error::SandboxError;
use super::frames::{self, Ended, Limit};
use super::reply::judge_readiness;
use super::set_up::SetUp;
use super::shared::Shared;
use super::zygote::{Connection, Signal, Zygote};

/// Bytes of the answer to the set-up.
const READINESS_BYTES: usize = 64 << 10;

/// What is asked, with a number that nobody can guess: the reply must have it.
pub(super) struct Request {
    header: Value,
    nonce: String,
}

impl Request {
    /// A request with these fields, an object.
    pub(super) fn new(mut header: Value) -> Result<Request, SandboxError> {
        let nonce = format!("{:016x}{:016x}", random()?, random()?);
        header["nonce"] = nonce.as_str().into();
        Ok(Request { header, nonce })
    }

    /// The number.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// A number that nobody can guess.
fn random() -> Result<u64, SandboxError> {
    getrandom::u64().map_err(|error| SandboxError::Fork { reason: format!("no random number: {error}") })
}

/// A process behind its walls. It runs only while it is asked.
#[derive(Debug)]
pub(super) struct Process {
    shared: Arc<Shared>,
    zygote: Arc<Zygote>,
    connection: Connection,
}

impl Process {
    /// A new process that has been sent its set-up and its first request, after its answer to the set-up: its walls stand. One that ends before it is ready has run nothing, and another is taken, once.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        setup: &SetUp<'_>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Process, Failure> {
        let attempt = || {
            let (zygote, connection) = shared.connect(setup.kind).map_err(Failure::Ours)?;
            let mut process = Process { shared: Arc::clone(shared), zygote, connection };
            match process.set_up(setup, request, deadline) {
                Ok(()) => Ok(process),
                Err(failure) => {
                    process.end();
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
    fn set_up(&mut self, setup: &SetUp<'_>, request: &Request, deadline: Instant) -> Result<(), Failure> {
        // What it holds is not measured: no code has run, and the memory that it is sent would count while it is open.
        let limit = Limit { deadline, scratch: None };
        let stream = &mut self.connection.stream;
        frames::write_first_frame(stream, setup.header.clone(), setup.memory, &limit)?;
        // A process that cannot be shut in answers why and ends, perhaps before it can be sent more.
        let sent = frames::write_frame(stream, request.header.clone(), &[], &limit);
        let header = frames::read_header(stream, &limit, READINESS_BYTES)?;
        judge_readiness(&header)?;
        Ok(sent?)
    }

    /// That it has said nothing since its last answer, and lives.
    pub(super) fn expect_silence(&self) -> Result<(), Ended> {
        frames::expect_silence(&self.connection.stream)
    }

    /// Lets it run and sends it a request. What it said since its last answer, it said unasked: nothing that it says is believed any more.
    pub(super) fn ask(&mut self, request: &Request, blobs: &[&[u8]], deadline: Instant) -> Result<(), Ended> {
        self.expect_silence().map_err(Ended::before_the_run)?;
        self.zygote.signal(&self.connection, Signal::Continue);
        let limit = self.connection.limit(deadline, &self.shared.options);
        frames::write_frame(&mut self.connection.stream, request.header.clone(), blobs, &limit)
    }

    /// The header of its answer, of so many bytes at most.
    pub(super) fn read_header(&mut self, deadline: Instant, bytes_max: usize) -> Result<Vec<u8>, Ended> {
        let limit = self.connection.limit(deadline, &self.shared.options);
        frames::read_header(&mut self.connection.stream, &limit, bytes_max)
    }

    /// What follows the header: lengths that the caller has bounded.
    pub(super) fn read_blobs(&mut self, deadline: Instant, lengths: &[u64]) -> Result<Vec<Vec<u8>>, Ended> {
        let limit = self.connection.limit(deadline, &self.shared.options);
        let stream = &mut self.connection.stream;
        lengths.iter().map(|&bytes| frames::read_blob(stream, &limit, bytes as usize)).collect()
    }

    /// Stops it after its answer, behind which it may say nothing.
    pub(super) fn rest(&self) -> Result<(), Ended> {
        self.expect_silence()?;
        self.zygote.signal(&self.connection, Signal::Stop);
        Ok(())
    }

    /// Ends it, whatever it is doing.
    pub(super) fn end(self) {
        self.zygote.kill(self.connection);
    }
}

/// Why there is no reply: the sandbox failed, or the process did.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Ours(#[from] SandboxError),
    #[error(transparent)]
    Theirs(#[from] Ended),
}
