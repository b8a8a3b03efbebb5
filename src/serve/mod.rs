//! An OpenAI-compatible HTTP server. One thread owns the engine and the weights ([`engine_loop`]); requests reach it through a channel, and tokens
//! come back through a channel of each request. Connections run on tokio, which no module outside this one uses; pictures are fetched on
//! blocking threads.
#![doc = include_str!("README.md")]

// In the order that a request passes.
pub mod http;
pub mod request;
pub mod engine_loop;
pub mod response;

// Chats that the server plays to their end.
pub mod agent;

// What all of them share.
pub mod admission;
pub mod app;
pub mod blocking;
pub mod error;
pub mod metrics;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use agent::session::{AgentSessions, Inbox};
use app::{App, seconds_since_1970};
use engine_loop::fair::{AdmissionQueue, FairSemaphore};
use engine_loop::{EngineLoop, Reload};
use http::access::Access;
use http::{body, connections, routes};
use metrics::ServerMetrics;
use request::prompts::Prompts;
use request::settings::Defaults;

use crate::engine::request::GeneratorError;
use crate::engine::speculation::Speculation;
use crate::engine::{Engine, EngineLimits};
use crate::isolated::Isolated;
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::patch_embed::PixelScale;
use crate::rollout::environment::Environment;

/// Polling interval while draining.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// Requests whose pictures are fetched at the same time.
const FETCHING_MAX: usize = 12;
/// Extra permits for requests with few pictures.
const FETCHING_FEW_MAX: usize = 4;
/// Pictures that count as few.
const FEW_PICTURES: u64 = 2;
/// Answers of a chat that run together in the environment.
const AGENT_GROUP_MAX: usize = 8;
/// Forms up to this size may use the reserved permit to compile.
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
    /// The network thread panicked.
    #[error("the network's thread failed")]
    Thread,
}

/// What a server is made of.
pub struct ServerConfig {
    /// The architecture; its context is that of the server.
    pub model: Model,
    /// The weights to begin with; an update writes over them.
    pub weights: Weights,
    /// Overwrites the weights with those of a folder.
    pub reload: Reload,
    /// Sizes of the engine.
    pub limits: EngineLimits,
    /// Whether the engine drafts.
    pub speculation: Speculation,
    /// The prompt side.
    pub prompts: Prompts,
    /// Server-wide defaults and limits of requests.
    pub defaults: Defaults,
    /// Names that the model goes by; the first is in answers.
    pub names: Vec<String>,
    /// Who may use the server.
    pub access: Access,
    /// Requests that may wait for the engine.
    pub waiting_max: usize,
    /// In which chats run to their end; without it each call is the client's to make.
    pub environment: Option<Arc<dyn Environment>>,
    /// How long a client may stand still.
    pub client_timeout: Duration,
    /// Subprocesses that compile grammars first, to see whether they survive it.
    pub compiler_children: Arc<Isolated>,
}

/// Serves until a signal says to end; requests that were taken are answered first.
///
/// # Errors
/// When the engine or the network failed.
pub fn run(config: ServerConfig, listener: TcpListener) -> Result<(), ServeError> {
    with_app(config, |app| serve(app, listener))
}

/// Runs the engine loop on this thread and `work`, which sends it commands, on another, until `work` has ended.
fn with_app(config: ServerConfig, work: impl FnOnce(App) -> Result<(), ServeError> + Send) -> Result<(), ServeError> {
    let (commands, receiver) = channel();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let metrics = Arc::new(ServerMetrics::default());
    metrics.set_weights(config.weights.version, None);
    let settings = config.prompts.processor.image_settings();
    let scale = PixelScale { mean: settings.mean, std: settings.std };
    let engine = Engine::new(config.model.clone(), config.prompts.processor.clone(), config.limits);
    let engine = engine.with_speculation(config.speculation);
    let (processor, environment) = (config.prompts.processor.clone(), config.environment.clone());
    let app = App {
        prompts: config.prompts,
        defaults: config.defaults,
        names: config.names,
        access: config.access,
        environment: config.environment,
        metrics: metrics.clone(),
        commands,
        preparing: FairSemaphore::new(cores, 1, blocking::SMALL_WORK_BYTES),
        grammar_compiler: OnceLock::new(),
        compiler_children: config.compiler_children,
        compiling: FairSemaphore::new(1, 1, SMALL_FORM_BYTES),
        fetching: FairSemaphore::new(FETCHING_MAX, FETCHING_FEW_MAX, FEW_PICTURES),
        admission: AdmissionQueue::new(config.waiting_max),
        bodies: Arc::new(Semaphore::new(body::BODIES_KIB_MAX)),
        bodies_wanted: AtomicUsize::new(0),
        agent_group_max: config.limits.sequences.clamp(1, AGENT_GROUP_MAX),
        client_timeout: config.client_timeout,
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
        EngineLoop::new((config.model, config.weights, config.reload), engine, scale, receiver, agent, metrics)
            .run()?;
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
