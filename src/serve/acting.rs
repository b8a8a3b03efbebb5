//! Chats that the server plays to their end: the model writes, the environment's tool runs on a worker while others decode, what comes of it
//! goes back to the model, until it has answered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use tokio::sync::mpsc::UnboundedSender;

use super::error::ApiError;
use super::fair::{Client, FairQueue, Place};
use super::gauges::Waiting;
use super::seats::Claim;
use crate::engine::request::{Event, GeneratorError};
use crate::prompt::{ChatError, Processor, PromptError};
use crate::rollout::environment::{Environment, EnvironmentError, Scene, Task, Tasks, TokenLimits};
use crate::rollout::generator::Generator;
use crate::rollout::tool::ToolImage;
use crate::rollout::trajectories::{Start, Trajectories};
use crate::rollout::transcript::{Call, Transcript};
use crate::rollout::{RolloutSettings, Update};

/// A chat that costs more to make ready is large: it has more than a picture or two.
const LARGE_COST: u64 = 3 << 20;
/// Chats that are ready and wait for places at most.
const PREPARED_MAX: usize = 64;

/// A chat to play, several times at once.
pub struct ActJob {
    /// Whose it is.
    pub client: Client,
    /// Number of its first answer in the request.
    pub first: usize,
    /// What making it ready costs.
    pub cost: u64,
    /// The conversation so far.
    pub task: Task,
    /// How many answers, how tokens are drawn, and what stops them besides the environment.
    pub settings: RolloutSettings,
    /// Tokens that each answer may take, its observations among them.
    pub limits: TokenLimits,
    /// Pixels of observed images that each answer's trajectory keeps.
    pub pixels_kept: usize,
    /// Where news goes. When nobody listens any more, the job is given up.
    pub events: UnboundedSender<Result<Act, ApiError>>,
    /// It counts as waiting until it is opened.
    pub waiting: Waiting,
    /// Its place in line.
    pub place: Option<Arc<Place>>,
}

/// What happened in an answer.
#[derive(Debug)]
pub struct Act {
    /// Its number in the request.
    pub choice: usize,
    /// What.
    pub kind: ActKind,
}

/// What can happen in an answer.
#[derive(Debug)]
pub enum ActKind {
    /// The model wrote.
    Text(String),
    /// The model reads what its call brought, images as `<image>`.
    Observed(String, Shown),
    /// It ended.
    Finished(Box<Transcript>),
}

/// The images of an observation.
#[derive(Debug, Default)]
pub struct Shown {
    /// Those that the trajectory keeps.
    pub images: Vec<ToolImage>,
    /// How many more the model was shown.
    pub left_out: usize,
}

impl Shown {
    /// Those of a call.
    pub fn of(call: &Call) -> Shown {
        let images = call.output.images.clone();
        Shown { left_out: call.images_shown - images.len(), images }
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

/// A chat that a worker made ready.
pub struct Prepared {
    /// The chat.
    pub job: ActJob,
    number: usize,
    scene: Scene,
}

impl Prepared {
    /// What it claims places by.
    pub fn claim(&self) -> Claim {
        Claim::new(self.job.client, self.prompt_tokens(), self.job.settings.group_size, self.job.limits.total)
    }

    /// Tokens of its prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.scene.prompt.token_ids.len()
    }
}

/// Whom a sequence's news goes to.
struct Listener {
    choice: usize,
    events: UnboundedSender<Result<Act, ApiError>>,
}

/// All chats that are played.
pub struct Acting<'a> {
    trajectories: Trajectories<'a>,
    inbox: &'a Inbox,
    /// Chats that no worker has yet, and those that one makes ready.
    queue: FairQueue<ActJob>,
    preparing: BTreeMap<usize, ActJob>,
    /// Chats that were ever given to a worker.
    numbered: usize,
    listeners: BTreeMap<u64, Listener>,
}

impl<'a> Acting<'a> {
    /// Starts the workers of an environment.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        processor: &'a Processor,
        environment: &'a dyn Environment,
        inbox: &'a Inbox,
    ) -> Acting<'a> {
        Acting {
            trajectories: Trajectories::start(scope, 0, processor, environment, inbox),
            inbox,
            queue: FairQueue::default(),
            preparing: BTreeMap::new(),
            numbered: 0,
            listeners: BTreeMap::new(),
        }
    }

    /// Takes a chat.
    pub fn add(&mut self, job: ActJob) {
        self.queue.push(job.client, job.cost, job);
    }

    /// Sequences that are open.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = u64> {
        self.listeners.keys().copied()
    }

    /// Whether a sequence waits for its next token.
    pub fn is_running(&self) -> bool {
        self.trajectories.is_running()
    }

    /// Whether a tool runs.
    pub fn is_calling(&self) -> bool {
        self.trajectories.is_calling()
    }

    /// Whether something is under way on the workers.
    pub fn is_working(&self) -> bool {
        self.trajectories.is_working()
    }

    /// Takes what the workers have done, and gives them more; the chats that are ready to be opened, beside so many that wait for it already.
    pub fn receive(&mut self, generator: &mut dyn Generator, waiting: usize) -> Vec<Prepared> {
        let listeners = &mut self.listeners;
        let received = self.trajectories.receive(generator, false, &mut |update| tell(listeners, update));
        let ready = received.unwrap_or_else(|error| {
            tracing::error!("{error}");
            self.fail(generator, &|| ApiError::failed(&error));
            Vec::new()
        });
        let mut prepared = Vec::new();
        for (number, scene) in ready {
            let Some(job) = self.preparing.remove(&number) else { continue };
            match scene {
                Ok(scene) => prepared.push(Prepared { job, number, scene }),
                Err(error) => job.refuse(environment_error(&error)),
            }
        }
        self.prepare_ahead(prepared.len() + waiting);
        prepared
    }

    /// Lets workers make a few chats more ready than are open. Large ones leave a worker to others, and are not made ready far ahead.
    fn prepare_ahead(&mut self, prepared: usize) {
        let threads = self.trajectories.preparing_threads();
        let is_large = |job: &ActJob| job.cost > LARGE_COST;
        while self.preparing.len() < threads + 2 && prepared < PREPARED_MAX {
            let large = self.preparing.values().filter(|job| is_large(job)).count();
            let takes_large = prepared < threads + 2 && (large == 0 || large + 1 < threads);
            let Some(mut job) = self.queue.pop_where(|job| takes_large || !is_large(job)) else { return };
            if job.events.is_closed() {
                continue;
            }
            self.inbox.put(self.numbered, std::mem::take(&mut job.task));
            self.trajectories.prepare(self.numbered, job.settings.group_size);
            self.preparing.insert(self.numbered, job);
            self.numbered += 1;
        }
    }

    /// Opens a chat's sequences, the first of which has the number `first`; how many they are. The chat comes back if there is no room now.
    pub fn open(
        &mut self,
        generator: &mut dyn Generator,
        mut prepared: Box<Prepared>,
        first: u64,
    ) -> Result<usize, Box<Prepared>> {
        let job = &prepared.job;
        if job.events.is_closed() {
            return Ok(0);
        }
        let start = Start {
            task: prepared.number,
            first_sequence: first,
            first_counter: Some(job.first as u64),
            limits: job.limits,
            pixels_kept: job.pixels_kept,
            settings: &job.settings,
        };
        match self.trajectories.open(generator, &mut prepared.scene, &start) {
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
    pub fn take(&mut self, generator: &mut dyn Generator, events: &[Event]) {
        let listeners = &mut self.listeners;
        self.trajectories.take(generator, events, &mut |update| tell(listeners, update));
    }

    /// Closes what nobody listens to any more.
    pub fn give_up_abandoned(&mut self, generator: &mut dyn Generator) {
        self.queue.retain(|job| !job.events.is_closed());
        let trajectories = &mut self.trajectories;
        self.listeners.retain(|&sequence, listener| {
            let is_heard = !listener.events.is_closed();
            if !is_heard {
                trajectories.close(generator, sequence);
            }
            is_heard
        });
    }

    /// Tells all who wait that nothing will come.
    pub fn fail(&mut self, generator: &mut dyn Generator, error: &dyn Fn() -> ApiError) {
        self.trajectories.close_all(generator);
        for listener in std::mem::take(&mut self.listeners).into_values() {
            let _ = listener.events.send(Err(error()));
        }
        let queued = std::iter::from_fn(|| self.queue.pop_where(|_| true));
        for job in std::mem::take(&mut self.preparing).into_values().chain(queued) {
            job.refuse(error());
        }
    }
}

impl Prepared {
    /// Tells the client why there is no answer, if it still listens.
    pub fn refuse(self, error: ApiError) {
        self.job.refuse(error);
    }
}

impl ActJob {
    /// Tells the client why there is no answer, if it still listens.
    pub fn refuse(self, error: ApiError) {
        let _ = self.events.send(Err(error));
    }
}

fn environment_error(error: &EnvironmentError) -> ApiError {
    match error {
        EnvironmentError::Tool(fault) => ApiError::failed(fault),
        EnvironmentError::Prompt(PromptError::Chat(ChatError::NoProcess(reason))) => ApiError::no_process(reason),
        other => ApiError::field("messages", format!("cannot be used: {other}")),
    }
}

/// Passes news on; whoever has gone hears nothing.
fn tell(listeners: &mut BTreeMap<u64, Listener>, update: Update<'_>) {
    let (sequence, kind) = match update {
        Update::Text { sequence, text } => (sequence, ActKind::Text(text.to_owned())),
        Update::Observed { sequence, call, text } => {
            let shown = Shown::of(call);
            (sequence, ActKind::Observed(text.to_owned(), shown))
        }
        Update::Finished(transcript) => (transcript.sequence, ActKind::Finished(Box::new(transcript))),
    };
    let ends = matches!(kind, ActKind::Finished(_));
    if let Some(listener) = listeners.get(&sequence) {
        let _ = listener.events.send(Ok(Act { choice: listener.choice, kind }));
    }
    if ends {
        listeners.remove(&sequence);
    }
}
