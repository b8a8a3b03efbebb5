//! An OpenAI-compatible HTTP server. One thread owns the engine and the weights ([`engine_loop`]); requests reach it through a channel, and tokens
//! come back through a channel of each request. All that waits for the network runs on tokio, which stands nowhere else in this crate.
#![doc = include_str!("README.md")]

pub mod access;
pub mod agent;
pub mod answer_logprobs;
pub mod answers;
pub mod batch;
pub mod choice;
mod compiler;
pub mod connections;
pub mod constraints;
pub mod control;
pub mod cost;
pub mod engine_loop;
pub mod error;
pub mod fair;
pub mod fields;
pub mod metrics;
pub mod generation;
pub mod images;
pub mod json_schema;
pub mod openai;
pub mod prompt_logprobs;
pub mod prompts;
pub mod routes;
pub mod sampling;
pub mod slots;
pub mod tool_calls;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use access::Access;
use agent::session::{AgentSessions, Inbox};
use compiler::Compiler;
use engine_loop::{Command, EngineLoop, Reload};
use error::ApiError;
use fair::{AdmissionQueue, FairSemaphore};
use metrics::ServerMetrics;
use prompts::Prompts;
use sampling::Defaults;

use crate::engine::request::GeneratorError;
use crate::engine::sampling::grammar::Vocabulary;
use crate::engine::speculation::Speculation;
use crate::engine::{Engine, EngineLimits};
use crate::isolated::Isolated;
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::patch_embed::PixelScale;
use crate::rollout::environment::Environment;

/// How often the end of the last request is looked for at the end.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// Requests whose pictures are fetched at once, and more of those that name few.
const FETCHING_MAX: usize = 12;
const FETCHING_FEW_MAX: usize = 4;
const FEW_PICTURES: u64 = 2;
/// Answers of a chat that run together in the environment.
const AGENT_GROUP_MAX: usize = 8;
/// Forms of no more bytes need not wait for larger ones.
const SMALL_FORM_BYTES: u64 = 2 << 10;
/// Exit status of a process that was interrupted twice, as shells report it.
const INTERRUPTED: i32 = 130;

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine could not do a step.
    #[error("the engine failed")]
    Engine(#[from] GeneratorError),
    /// The listener, the network's thread or its runtime could not be set up.
    #[error("the network cannot be used: {0}; choose another --host or --port")]
    Network(#[from] std::io::Error),
    /// The network's thread panicked, and said why.
    #[error("the network's thread failed")]
    Thread,
}

/// What a server is made of.
pub struct Parts {
    /// The architecture; its context is that of the server.
    pub model: Model,
    /// The weights to begin with; an update writes over them.
    pub weights: Weights,
    /// How those of a folder are read over them.
    pub reload: Reload,
    /// Sizes of the engine.
    pub limits: EngineLimits,
    /// Whether the engine drafts.
    pub speculation: Speculation,
    /// The prompt side.
    pub prompts: Prompts,
    /// What holds where a request says nothing.
    pub defaults: Defaults,
    /// Names that the model goes by; the first is told.
    pub names: Vec<String>,
    /// Who may use the server.
    pub access: Access,
    /// Prompts that may wait for room.
    pub waiting_max: usize,
    /// In which chats run to their end; without it each call is the client's to make.
    pub environment: Option<Arc<dyn Environment>>,
    /// How long a client may stand still.
    pub client_timeout: Duration,
    /// Children that compile grammars, to see whether they can be.
    pub compiler: Arc<Isolated>,
}

/// What the routes share.
pub struct App {
    prompts: Prompts,
    defaults: Defaults,
    names: Vec<String>,
    access: Access,
    environment: Option<Arc<dyn Environment>>,
    metrics: Arc<ServerMetrics>,
    commands: Sender<Command>,
    /// Prompts that are made ready at once: each may hold a large picture.
    preparing: Arc<FairSemaphore>,
    /// Compiles grammars; made when the first is asked for.
    grammars: OnceLock<Result<Compiler, String>>,
    compiler: Arc<Isolated>,
    /// Forms that are compiled at once.
    compiling: Arc<FairSemaphore>,
    /// Requests whose pictures are fetched at once.
    fetching: Arc<FairSemaphore>,
    /// Requests that wait for the engine.
    admission: Arc<AdmissionQueue>,
    /// Room for large bodies, in KiB.
    bodies: Arc<Semaphore>,
    /// How many wait for some of it.
    bodies_wanted: AtomicUsize,
    /// Answers of a chat that run together.
    agent_group_max: usize,
    client_timeout: Duration,
    draining: AtomicBool,
    requests: AtomicU64,
    /// When it began, in seconds since 1970.
    created: u64,
    /// Fields that somebody sent and nobody knows, each said once.
    unknown_fields: Mutex<BTreeSet<String>>,
}

impl App {
    /// Gives the loop something to do.
    ///
    /// # Errors
    /// When it is gone.
    fn send(&self, command: Command) -> Result<(), ApiError> {
        self.commands.send(command).map_err(|_| ApiError::failed("the engine is gone"))
    }

    /// Checks that the server generates: it does not go down, and its weights are whole.
    ///
    /// # Errors
    /// When it does not.
    fn check_ready(&self) -> Result<(), ApiError> {
        if self.is_draining() {
            return Err(ApiError::draining());
        }
        self.metrics.incomplete_weights().map_or(Ok(()), |reason| Err(ApiError::incomplete_weights(&reason)))
    }

    /// What compiles grammars.
    ///
    /// # Errors
    /// When the tokenizer cannot be used for it.
    fn grammars(&self) -> Result<&Compiler, ApiError> {
        let make = || {
            let vocabulary =
                Vocabulary::new(self.prompts.processor.tokenizer(), self.defaults.vocab, &self.defaults.eos);
            Compiler::new(&vocabulary, &self.compiler)
        };
        let grammars = self.grammars.get_or_init(make).as_ref();
        grammars.map_err(|reason| ApiError::failed(format!("the tokenizer cannot be used with grammars: {reason}")))
    }

    /// Whether the server goes down.
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// A name for a request that no other has.
    fn request_id(&self, prefix: &str) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{:x}-{number:x}", self.created)
    }
}

/// The time, as OpenAI's answers tell it.
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Serves until a signal says to end; requests that were taken are answered first.
///
/// # Errors
/// When the engine or the network failed.
pub fn run(parts: Parts, listener: TcpListener) -> Result<(), ServeError> {
    with_app(parts, |app| serve(app, listener))
}

/// Runs the loop on this thread, and beside it on another whoever gives it something to do, until that has ended.
fn with_app(parts: Parts, work: impl FnOnce(App) -> Result<(), ServeError> + Send) -> Result<(), ServeError> {
    let (commands, receiver) = channel();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let metrics = Arc::new(ServerMetrics::default());
    metrics.set_weights(parts.weights.version, None);
    let settings = parts.prompts.processor.image_settings();
    let scale = PixelScale { mean: settings.mean, std: settings.std };
    let engine = Engine::new(parts.model.clone(), parts.prompts.processor.clone(), parts.limits);
    let engine = engine.with_speculation(parts.speculation);
    let (processor, environment) = (parts.prompts.processor.clone(), parts.environment.clone());
    let app = App {
        prompts: parts.prompts,
        defaults: parts.defaults,
        names: parts.names,
        access: parts.access,
        environment: parts.environment,
        metrics: metrics.clone(),
        commands,
        preparing: FairSemaphore::new(cores, 1, routes::SMALL_WORK_BYTES),
        grammars: OnceLock::new(),
        compiler: parts.compiler,
        compiling: FairSemaphore::new(1, 1, SMALL_FORM_BYTES),
        fetching: FairSemaphore::new(FETCHING_MAX, FETCHING_FEW_MAX, FEW_PICTURES),
        admission: AdmissionQueue::new(parts.waiting_max),
        bodies: Arc::new(Semaphore::new(routes::BODIES_KIB_MAX)),
        bodies_wanted: AtomicUsize::new(0),
        agent_group_max: parts.limits.sequences.clamp(1, AGENT_GROUP_MAX),
        client_timeout: parts.client_timeout,
        draining: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        created: seconds_since_1970(),
        unknown_fields: Mutex::new(BTreeSet::new()),
    };
    let inbox = Inbox::default();
    std::thread::scope(|scope| {
        let network = std::thread::Builder::new().name("network".to_owned()).spawn_scoped(scope, move || work(app))?;
        let agent =
            environment.as_deref().map(|environment| AgentSessions::start(scope, &processor, environment, &inbox));
        EngineLoop::new((parts.model, parts.weights, parts.reload), engine, scale, receiver, agent, metrics).run()?;
        network.join().unwrap_or(Err(ServeError::Thread))
    })
}

/// The network's thread. When it ends, the last sender of commands is gone, and so the loop ends.
fn serve(app: App, listener: TcpListener) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let app = Arc::new(app);
        let (drained, is_drained) = watch::channel(false);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(drain(app.clone(), drained));
        let client_timeout = app.client_timeout;
        connections::serve(listener, routes::router(app), client_timeout, is_drained).await;
        Ok(())
    })
}

/// At the first signal takes no more requests, and ends when all are answered; at the second ends at once.
async fn drain(app: Arc<App>, drained: watch::Sender<bool>) -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    app.draining.store(true, Ordering::SeqCst);
    let active = app.metrics.active();
    tracing::info!("shutting down when {active} requests are answered; once more ends at once");
    let answered = async {
        while app.metrics.active() > 0 {
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    };
    let again = async {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    tokio::select! { () = answered => {}, () = again => std::process::exit(INTERRUPTED) }
    drained.send_replace(true);
    // Those whose last bytes are read slowly may hold the server up for a while.
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    std::process::exit(INTERRUPTED)
}
