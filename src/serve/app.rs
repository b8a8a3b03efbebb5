//! What all routes share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use super::engine_loop::Command;
use super::engine_loop::fair::{AdmissionQueue, FairSemaphore};
use super::error::ApiError;
use super::http::access::Access;
use super::metrics::ServerMetrics;
use super::request::compiler::Compiler;
use super::request::prompts::Prompts;
use super::request::settings::Defaults;
use crate::engine::sampling::grammar::Vocabulary;
use crate::files::json::shorten;
use crate::isolated::Isolated;
use crate::rollout::environment::Environment;

/// What the routes share.
pub struct App {
    /// Makes prompts of requests.
    pub prompts: Prompts,
    /// Server-wide defaults and limits of requests.
    pub defaults: Defaults,
    /// Names that the model goes by; the first is in answers.
    pub names: Vec<String>,
    /// Who may use the server.
    pub access: Access,
    /// In which chats run to their end, if they do.
    pub environment: Option<Arc<dyn Environment>>,
    /// What `/metrics` shows.
    pub metrics: Arc<ServerMetrics>,
    /// Reaches the engine loop.
    pub commands: Sender<Command>,
    /// Bodies that are read and requests that are prepared at once: each may hold a large picture.
    pub preparing: Arc<FairSemaphore>,
    /// Compiles grammars; made when the first is asked for.
    pub grammar_compiler: OnceLock<Result<Compiler, String>>,
    /// Child processes that compile a grammar first, to see whether they survive it.
    pub compiler_children: Arc<Isolated>,
    /// Forms that are compiled at once.
    pub compiling: Arc<FairSemaphore>,
    /// Requests whose pictures are fetched at once.
    pub fetching: Arc<FairSemaphore>,
    /// Requests that wait for the engine.
    pub admission: Arc<AdmissionQueue>,
    /// Room for large bodies, in KiB.
    pub bodies: Arc<Semaphore>,
    /// How many wait for some of it.
    pub bodies_wanted: AtomicUsize,
    /// Answers of a chat that run together.
    pub agent_group_max: usize,
    /// How long a client may stand still.
    pub client_timeout: Duration,
    /// The server shuts down.
    pub draining: AtomicBool,
    /// Counts requests and ids, so that each has a number of its own.
    pub requests: AtomicU64,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// Fields that somebody sent and nobody knows, each said once.
    pub unknown_fields: Mutex<BTreeSet<String>>,
}

impl App {
    /// Gives the loop something to do.
    ///
    /// # Errors
    /// When it is gone.
    pub fn send(&self, command: Command) -> Result<(), ApiError> {
        self.commands.send(command).map_err(|_| ApiError::engine_gone())
    }

    /// Counts answers that nobody listens to any more, of a request that began then, and has the loop close what is open of them.
    pub fn give_up(&self, answers: usize, began: Instant) {
        if answers > 0 {
            // Where the loop is gone, nothing is open.
            let _ = self.send(Command::Abort);
        }
        for _ in 0..answers {
            self.metrics.count_finish("abort", began.elapsed().as_secs_f64(), None);
        }
    }

    /// Checks that the server generates: it does not shut down, and its weights are whole.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_ready(&self) -> Result<(), ApiError> {
        if self.is_draining() {
            return Err(ApiError::draining());
        }
        self.metrics.incomplete_weights().map_or(Ok(()), |reason| Err(ApiError::incomplete_weights(&reason)))
    }

    /// What compiles grammars.
    ///
    /// # Errors
    /// When the tokenizer cannot be used for it.
    pub fn grammar_compiler(&self) -> Result<&Compiler, ApiError> {
        let make = || {
            let vocabulary =
                Vocabulary::new(self.prompts.processor.tokenizer(), self.defaults.vocab, &self.defaults.eos);
            Compiler::new(&vocabulary, &self.compiler_children)
        };
        let compiler = self.grammar_compiler.get_or_init(make).as_ref();
        compiler.map_err(|reason| ApiError::failed(format!("the tokenizer cannot be used with grammars: {reason}")))
    }

    /// Whether the server shuts down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// A name for a request that no other has.
    pub fn request_id(&self, prefix: &str) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{:x}-{number:x}", self.created)
    }

    /// The name that a request calls the model by.
    ///
    /// # Errors
    /// When it is another's.
    pub fn model_name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(self.names[0].clone()) };
        match self.names.iter().find(|name| *name == asked) {
            Some(name) => Ok(name.clone()),
            None => {
                let message =
                    format!("there is no model `{}`; this server has `{}`", shorten(asked), self.names.join("`, `"));
                Err(ApiError::status(StatusCode::NOT_FOUND, "model_not_found", message))
            }
        }
    }
}

/// The time, as OpenAI's answers tell it.
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
