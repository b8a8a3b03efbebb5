//! Chats that the server runs to their end: the model writes, the environment's tool runs on a worker while others decode, what comes of it
//! goes back to the model, until it has answered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use tokio::sync::mpsc::UnboundedSender;

use crate::engine::request::{GeneratorError, TokenEvent};
use crate::prompt::{ChatError, Processor, PromptError};
use crate::rollout::agent_loop::{AgentLoop, Start};
use crate::rollout::branching::Members;
use crate::rollout::environment::{Environment, EnvironmentError, PreparedTask, Tasks, TokenLimits};
use crate::rollout::generator::Generator;
use crate::rollout::task::Task;
use crate::rollout::tool::ToolImage;
use crate::rollout::trajectory::{Call, Trajectory};
use crate::rollout::{RolloutSettings, Update};
use crate::serve::engine_loop::fair::{Client, FairQueue, Place};
use crate::serve::engine_loop::slots::Claim;
use crate::serve::error::ApiError;
use crate::serve::metrics::Waiting;

/// A chat that costs more to prepare is large: it has more than a picture or two.
const LARGE_COST: u64 = 3 << 20;
/// Chats that are ready and wait for slots at most.
const PREPARED_MAX: usize = 64;

/// A chat to run, several times at once.
pub struct AgentJob {
    /// Whose it is.
    pub client: Client,
    /// Number of its first answer in the request.
    pub first: usize,
    /// What preparing it costs.
    pub cost: u64,
    /// The conversation so far.
    pub task: Task,
    /// How many answers, how tokens are sampled, and what stops them besides the environment.
    pub settings: RolloutSettings,
    /// Tokens that each answer may take, its observations among them.
    pub limits: TokenLimits,
    /// Pixels of observed images that each answer's trajectory keeps.
    pub pixels_kept: usize,
    /// Where news goes. When nobody listens any more, the job is given up.
    pub events: UnboundedSender<Result<AgentEvent, ApiError>>,
    /// It counts as waiting until it is opened.
    pub waiting: Waiting,
    /// Its place in the admission queue.
    pub place: Option<Arc<Place>>,
}

/// What happened in an answer.
#[derive(Debug)]
pub struct AgentEvent {
    /// Its number in the request.
    pub choice: usize,
    /// What happened in it.
    pub kind: AgentEventKind,
}

/// What can happen in an answer.
#[derive(Debug)]
pub enum AgentEventKind {
    /// The model wrote.
    Text(String),
    /// The model reads what its call brought, images as `<image>`.
    Observed(String, ObservedImages),
    /// The answer ended; this is all of it.
    Finished(Box<Trajectory>),
}

/// The images of an observation.
#[derive(Debug, Default)]
pub struct ObservedImages {
    /// Those that the trajectory keeps.
    pub images: Vec<ToolImage>,
    /// How many more the model was shown.
    pub left_out: usize,
}

impl ObservedImages {
    /// Those of the calls that the observation answers.
    pub fn of(calls: &[Call]) -> ObservedImages {
        let images: Vec<ToolImage> = calls.iter().flat_map(|call| &call.output.images).cloned().collect();
        let shown: usize = calls.iter().map(|call| call.images_shown).sum();
        ObservedImages { left_out: shown - images.len(), images }
    }
}

/// Tasks on their way to the workers, by number.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<BTreeMap<usize, Task>>);

impl Inbox {
    fn put(&self, number: usize, task: Task) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, task);
    }
}

impl Tasks for Inbox {
    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn task(&self, number: usize) -> Result<Cow<'_, Task>, EnvironmentError> {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        task.map(Cow::Owned).ok_or_else(|| EnvironmentError::Task(format!("there is no task {number}")))
    }
}

/// A chat that a worker prepared.
pub struct PreparedJob {
    /// The chat as it was asked for.
    pub job: AgentJob,
    number: usize,
    prepared_task: PreparedTask,
}

impl PreparedJob {
    /// What it claims slots by.
    pub fn claim(&self) -> Claim {
        Claim::new(self.job.client, self.prompt_tokens(), self.job.settings.group_size, self.job.limits.total)
    }

    /// Tokens of its prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prepared_task.prompt.token_ids.len()
    }
}

/// Whom a sequence's news goes to.
struct Listener {
    choice: usize,
    events: UnboundedSender<Result<AgentEvent, ApiError>>,
}

/// All chats that run in the environment.
pub struct AgentSessions<'a> {
    agent_loop: AgentLoop<'a>,
    /// Tasks of chats on their way to the workers.
    inbox: &'a Inbox,
    /// Chats that no worker has yet.
    queue: FairQueue<AgentJob>,
    /// Chats that workers prepare, by number.
    preparing: BTreeMap<usize, AgentJob>,
    /// Chats that were ever given to a worker.
    numbered: usize,
    listeners: BTreeMap<u64, Listener>,
}

impl<'a> AgentSessions<'a> {
    /// Starts the workers of an environment.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        processor: &'a Processor,
        environment: &'a dyn Environment,
        inbox: &'a Inbox,
    ) -> AgentSessions<'a> {
        AgentSessions {
            agent_loop: AgentLoop::start(scope, 0, processor, environment, inbox),
            inbox,
            queue: FairQueue::default(),
            preparing: BTreeMap::new(),
            numbered: 0,
            listeners: BTreeMap::new(),
        }
    }

    /// Takes a chat.
    pub fn add(&mut self, job: AgentJob) {
        self.queue.push(job.client, job.cost, job);
    }

    /// Sequences that are open.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = u64> {
        self.listeners.keys().copied()
    }

    /// Whether a sequence waits for its next token.
    pub fn is_running(&self) -> bool {
        self.agent_loop.is_running()
    }

    /// Whether a tool runs.
    pub fn is_calling(&self) -> bool {
        self.agent_loop.is_calling()
    }

    /// Whether something is under way on the workers.
    pub fn is_working(&self) -> bool {
        self.agent_loop.is_working()
    }

    /// Takes what the workers have done, and gives them more. Returns the prepared chats; `waiting` more wait for slots already.
    pub fn receive(&mut self, generator: &mut dyn Generator, waiting: usize) -> Vec<PreparedJob> {
        let listeners = &mut self.listeners;
        let received = self.agent_loop.receive(generator, false, &mut |update| tell(listeners, update));
        let ready = received.unwrap_or_else(|error| {
            tracing::error!("{error}");
            self.fail(generator, &|| ApiError::failed(&error));
            Vec::new()
        });
        let mut prepared = Vec::new();
        for (number, prepared_task) in ready {
            let Some(job) = self.preparing.remove(&number) else { continue };
            match prepared_task {
                Ok(prepared_task) => prepared.push(PreparedJob { job, number, prepared_task }),
                Err(error) => job.refuse(environment_error(&error)),
            }
        }
        self.prepare_ahead(prepared.len() + waiting);
        prepared
    }

    /// Prepares at most `threads + 2` chats at once, while few prepared ones wait. Large ones leave a worker to others, and are not prepared
    /// far ahead.
    fn prepare_ahead(&mut self, prepared: usize) {
        let threads = self.agent_loop.preparing_threads();
        let is_large = |job: &AgentJob| job.cost > LARGE_COST;
        while self.preparing.len() < threads + 2 && prepared < PREPARED_MAX {
            let large = self.preparing.values().filter(|job| is_large(job)).count();
            let takes_large = prepared < threads + 2 && (large == 0 || large + 1 < threads);
            let Some(mut job) = self.queue.pop_where(|job| takes_large || !is_large(job)) else { return };
            if job.events.is_closed() {
                continue;
            }
            self.inbox.put(self.numbered, std::mem::take(&mut job.task));
            self.agent_loop.prepare(self.numbered, job.settings.group_size);
            self.preparing.insert(self.numbered, job);
            self.numbered += 1;
        }
    }

    /// Opens a chat's sequences, the first of which has the number `first`; how many they are. The chat comes back if there is no room now.
    pub fn open(
        &mut self,
        generator: &mut dyn Generator,
        mut prepared: Box<PreparedJob>,
        first: u64,
    ) -> Result<usize, Box<PreparedJob>> {
        let job = &prepared.job;
        if job.events.is_closed() {
            return Ok(0);
        }
        let start = Start {
            task: prepared.number,
            members: Members { first: 0, count: job.settings.group_size },
            first_sequence: first,
            first_counter: Some(job.first as u64),
            limits: job.limits,
            pixels_kept: job.pixels_kept,
            settings: &job.settings,
        };
        match self.agent_loop.open(generator, &mut prepared.prepared_task, &start) {
            Ok(()) => {
                for choice in 0..job.settings.group_size {
                    let listener = Listener { choice: job.first + choice, events: job.events.clone() };
                    self.listeners.insert(first + choice as u64, listener);
                }
                Ok(job.settings.group_size)
            }
            Err(GeneratorError::Full) => Err(prepared),
            Err(error) => {
                prepared.job.refuse(error.into());
                Ok(0)
            }
        }
    }

    /// Takes what a step of the generator brought.
    pub fn take(&mut self, generator: &mut dyn Generator, events: &[TokenEvent]) {
        let listeners = &mut self.listeners;
        self.agent_loop.take(generator, events, &mut |update| tell(listeners, update));
    }

    /// Closes what nobody listens to any more.
    pub fn give_up_abandoned(&mut self, generator: &mut dyn Generator) {
        self.queue.retain(|job| !job.events.is_closed());
        let agent_loop = &mut self.agent_loop;
        self.listeners.retain(|&sequence, listener| {
            let is_heard = !listener.events.is_closed();
            if !is_heard {
                agent_loop.close(generator, sequence);
            }
            is_heard
        });
    }

    /// Sends an error to all who wait, and closes all sequences.
    pub fn fail(&mut self, generator: &mut dyn Generator, error: &dyn Fn() -> ApiError) {
        self.agent_loop.close_all(generator);
        for listener in std::mem::take(&mut self.listeners).into_values() {
            let _ = listener.events.send(Err(error()));
        }
        let queued = std::iter::from_fn(|| self.queue.pop_where(|_| true));
        for job in std::mem::take(&mut self.preparing).into_values().chain(queued) {
            job.refuse(error());
        }
    }
}

impl PreparedJob {
    /// Tells the client why there is no answer, if it still listens.
    pub fn refuse(self, error: ApiError) {
        self.job.refuse(error);
    }
}

impl AgentJob {
    /// Tells the client why there is no answer, if it still listens.
    pub fn refuse(self, error: ApiError) {
        let _ = self.events.send(Err(error));
    }
}

fn environment_error(error: &EnvironmentError) -> ApiError {
    match error {
        EnvironmentError::Tool(fault) => ApiError::tool_failed(fault),
        EnvironmentError::Prompt(PromptError::Chat(ChatError::NoProcess(reason))) => ApiError::no_process(reason),
        other => ApiError::field("messages", format!("cannot be used: {other}")),
    }
}

/// Sends an update to its listener, if it still listens.
fn tell(listeners: &mut BTreeMap<u64, Listener>, update: Update<'_>) {
    let (sequence, kind) = match update {
        Update::Text { sequence, text } => (sequence, AgentEventKind::Text(text.to_owned())),
        Update::Observed { sequence, calls, text } => {
            let shown = ObservedImages::of(calls);
            (sequence, AgentEventKind::Observed(text.to_owned(), shown))
        }
        Update::Finished(trajectory) => (trajectory.sequence, AgentEventKind::Finished(trajectory)),
    };
    let ends = matches!(kind, AgentEventKind::Finished(_));
    if let Some(listener) = listeners.get(&sequence) {
        let _ = listener.events.send(Ok(AgentEvent { choice: listener.choice, kind }));
    }
    if ends {
        listeners.remove(&sequence);
    }
}
