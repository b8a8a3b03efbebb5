//! The loop that owns the engine and the weights: commands come through one channel, the tokens of a request go back through its own.

pub mod fair;
pub mod prompt_logprobs;
pub mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError};

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::checkpoint::weights::ReloadError;
use crate::engine::Engine;
use crate::engine::request::{GenerateRequest, GeneratorError, Sampling, Stops, TokenEvent};
use crate::engine::sampling::constraints::Constraints;
use crate::engine::sequence::SequenceState;
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::Prompt;
use crate::rollout::engine_generator::EngineGenerator;
use crate::serve::agent::session::{AgentJob, AgentSessions, PreparedJob};
use crate::serve::error::ApiError;
use crate::serve::metrics::{ServerMetrics, Waiting};
use fair::{Client, FairQueue, Place, Spot};
use prompt_logprobs::{Scoring, TokenLogprobs};
use slots::{Claim, Slots};

/// Sequences of a request that are opened at once while others wait.
const GROUP_MAX: usize = 8;
/// Tokens of an answer that count in the cost of being served once, however long the answer may become.
const ANSWER_COST_MAX: usize = 256;
/// Prompts of several pieces that are scored at the same time.
const SCORINGS_MAX: usize = 4;
/// How often workers are looked at while there is nothing to decode.
const WORKERS_INTERVAL: Duration = Duration::from_millis(1);

/// After this long without a command unused memory goes back to the system.
const IDLE: Duration = Duration::from_secs(1);

/// Something for the loop to do.
pub enum Command {
    /// Answer a prompt.
    Generate(Queued),
    /// Run a chat to its end, as an agent.
    RunAgent(Box<AgentJob>),
    /// Give the log-probabilities of a prompt's tokens, and of this many of the likeliest at each position.
    Score(Client, Prompt, usize, oneshot::Sender<Vec<TokenLogprobs>>),
    /// Read the weights of a folder in place of the present ones; the answer is their version.
    UpdateWeights(PathBuf, InFlightPolicy, oneshot::Sender<Result<u64, ReloadError>>),
    /// Forget what was computed for earlier prompts, but for what is in use.
    ResetPrefixCache(oneshot::Sender<()>),
    /// Somebody left before the end: what nobody listens to any more is given up.
    Abort,
}

/// What becomes of answers under way when the weights change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InFlightPolicy {
    /// They go on under the new weights, after the tokens that they have, whose keys and values are computed anew.
    #[default]
    Continue,
    /// They start over, but for those of which a part was given out already, and those in an environment, whose calls cannot be undone.
    Restart,
}

/// A prompt that waits for slots in the engine.
pub struct Queued {
    /// What is asked.
    job: Arc<GenerateJob>,
    /// Which of its answers are not opened yet.
    answers: Range<usize>,
    /// It counts as waiting until all are.
    _waiting: Waiting,
    /// Its place in the admission queue. Left when every prompt of the request has an answer open.
    place: Option<Arc<Place>>,
}

impl Queued {
    /// All of a job waits.
    pub fn new(job: Arc<GenerateJob>, waiting: Waiting, place: Option<Arc<Place>>) -> Queued {
        Queued { answers: 0..job.n, job, _waiting: waiting, place }
    }
}

/// A prompt to answer, several times at once.
pub struct GenerateJob {
    /// Whose it is.
    pub client: Client,
    /// Its token ids and images.
    pub prompt: Prompt,
    /// Number of its first answer in the request.
    pub first: usize,
    /// How many answers.
    pub n: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// How many of the likeliest tokens are returned with each.
    pub top_logprobs: usize,
    /// Whether their log-probabilities are those of the distribution sampled from.
    pub top_logprobs_processed: bool,
    /// Constraints on sampled tokens.
    pub constraints: Arc<Constraints>,
    /// When answers end.
    pub stops: Stops,
    /// Nothing of the answers is given out before all have ended.
    pub may_restart: bool,
    /// Where news goes. When nobody listens any more, the job is given up.
    pub events: UnboundedSender<Result<RequestEvent, ApiError>>,
}

/// What a request is told of its answers, which have numbers in the request.
#[derive(Clone, Debug)]
pub enum RequestEvent {
    /// This came of an answer.
    Output(usize, TokenEvent),
    /// The answers of these numbers start over.
    Restarted(Range<usize>),
}

/// An open sequence's way back to its request.
struct Listener {
    choice: usize,
    job: Arc<GenerateJob>,
}

/// Something that waits for slots in the engine.
enum Waiter {
    Job(Queued),
    Agent(Box<PreparedJob>),
    /// A paused sequence, which counts as waiting.
    Paused {
        sequence: u64,
        claim: Claim,
        _waiting: Waiting,
    },
}

impl Waiter {
    /// What it claims slots by.
    fn claim(&self) -> Claim {
        match self {
            Waiter::Job(queued) => {
                let job = &queued.job;
                Claim::new(job.client, job.prompt.token_ids.len(), job.n, job.stops.total_tokens)
            }
            Waiter::Agent(prepared) => prepared.claim(),
            Waiter::Paused { claim, .. } => *claim,
        }
    }

    /// Slots that it wants at least.
    fn slots(&self) -> usize {
        match self {
            Waiter::Agent(prepared) => prepared.job.settings.group_size,
            Waiter::Job(_) | Waiter::Paused { .. } => 1,
        }
    }

    /// What being served costs: the prompt, and the tokens that its sequences may sample until others are served. Who was paused has paid.
    fn cost(&self) -> u64 {
        let (prompt, sequences, tokens) = match self {
            Waiter::Job(queued) => {
                let job = &queued.job;
                (job.prompt.token_ids.len(), queued.answers.len().min(GROUP_MAX), job.stops.total_tokens)
            }
            Waiter::Agent(prepared) => {
                (prepared.prompt_tokens(), prepared.job.settings.group_size, prepared.job.limits.total)
            }
            Waiter::Paused { .. } => return 0,
        };
        (prompt + sequences * tokens.min(ANSWER_COST_MAX)) as u64
    }
}

/// Reads the weights of a folder over those of a model.
pub type Reload = fn(&Model, &mut Weights, &Path) -> Result<(), ReloadError>;

/// The engine, the weights, and who waits for what.
pub struct EngineLoop<'a> {
    model: Model,
    weights: Weights,
    reload: Reload,
    /// Why the weights are incomplete. Nothing is computed with such weights.
    incomplete: Option<String>,
    engine: Engine,
    pixel_scale: PixelScale,
    commands: Receiver<Command>,
    waiting: FairQueue<Waiter>,
    /// Who holds the engine's slots, or was paused.
    slots: Slots,
    /// Sequences that left their slots while a tool is at work for them.
    aside: BTreeSet<u64>,
    listeners: BTreeMap<u64, Listener>,
    /// Where the server has an environment.
    agent: Option<AgentSessions<'a>>,
    /// Prompts to score, piece by piece.
    scorings: FairQueue<(Client, Scoring)>,
    /// There may be something that nobody listens to.
    somebody_left: bool,
    sequences_opened: u64,
    metrics: Arc<ServerMetrics>,
}

impl<'a> EngineLoop<'a> {
    /// With nothing to do yet.
    pub fn new(
        (model, weights, reload): (Model, Weights, Reload),
        engine: Engine,
        pixel_scale: PixelScale,
        commands: Receiver<Command>,
        agent: Option<AgentSessions<'a>>,
        metrics: Arc<ServerMetrics>,
    ) -> EngineLoop<'a> {
        EngineLoop {
            model,
            weights,
            reload,
            incomplete: None,
            engine,
            pixel_scale,
            commands,
            waiting: FairQueue::default(),
            slots: Slots::default(),
            aside: BTreeSet::new(),
            listeners: BTreeMap::new(),
            agent,
            scorings: FairQueue::default(),
            somebody_left: false,
            sequences_opened: 0,
            metrics,
        }
    }

    /// Works until nobody can send a command any more.
    ///
    /// # Errors
    /// When the engine failed; whoever waited got an error.
    pub fn run(mut self) -> Result<(), GeneratorError> {
        loop {
            let command = match self.commands.recv_timeout(IDLE) {
                Err(RecvTimeoutError::Timeout) => {
                    self.model.backend.release_unused();
                    self.commands.recv()
                }
                command => command.map_err(|_| RecvError),
            };
            let Ok(command) = command else { break };
            self.take(command);
            // On the worker pool itself, as long as there is work: parallel ops are then started from inside the pool.
            rayon::scope(|_| self.work_off())?;
        }
        Ok(())
    }

    /// Carries out a command, or queues its work.
    fn take(&mut self, command: Command) {
        // Whoever sent it may have gone; then nobody hears the answer.
        match command {
            Command::Generate(queued) => match &self.incomplete {
                None => self.wait(Waiter::Job(queued)),
                Some(reason) => drop(queued.job.events.send(Err(ApiError::incomplete_weights(reason)))),
            },
            Command::RunAgent(job) => match (&mut self.agent, &self.incomplete) {
                (_, Some(reason)) => job.refuse(ApiError::incomplete_weights(reason)),
                (Some(agent), None) => agent.add(*job),
                (None, None) => job.refuse(ApiError::failed("this server has no environment")),
            },
            // The routes report incomplete weights when nothing comes back.
            Command::Score(..) if self.incomplete.is_some() => {}
            Command::Score(client, prompt, top, reply) => {
                let scoring = Scoring::new(&self.model, prompt, top, reply);
                self.scorings.push(client, scoring.next_tokens(), (client, scoring));
            }
            Command::UpdateWeights(dir, running, reply) => {
                let reloaded = self.read_weights(&dir);
                if reloaded.is_ok() && running == InFlightPolicy::Restart {
                    self.restart();
                }
                let _ = reply.send(reloaded.map(|()| self.weights.version));
            }
            Command::ResetPrefixCache(reply) => {
                self.engine.forget_images();
                let (free, pages) = self.engine.pages();
                match free == pages {
                    true => self.engine.release_pages(),
                    false => self.engine.forget_prefixes(),
                }
                let _ = reply.send(());
            }
            Command::Abort => self.somebody_left = true,
        }
    }

    /// Steps until all is answered.
    fn work_off(&mut self) -> Result<(), GeneratorError> {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.take(command);
            }
            if std::mem::take(&mut self.somebody_left) {
                self.give_up_abandoned();
            }
            self.receive();
            let agent_sequences = self.agent.as_ref().map_or(0, |agent| agent.sequences().len());
            if self.slots.count_all() > self.listeners.len() + agent_sequences {
                self.forget_closed();
            }
            self.fill_slots();
            self.measure();
            self.score();
            let began = Instant::now();
            let agent_is = |is: fn(&AgentSessions<'a>) -> bool| self.agent.as_ref().is_some_and(is);
            let (is_calling, is_working) = (agent_is(AgentSessions::is_calling), agent_is(AgentSessions::is_working));
            let is_decoding = !self.listeners.is_empty() || agent_is(AgentSessions::is_running);
            if is_decoding {
                match self.engine.step(&self.weights) {
                    Ok(events) => self.deliver(events),
                    Err(error) => return Err(self.fail(error)),
                }
            } else if !self.scorings.is_empty() {
                continue;
            } else if is_working {
                if let Ok(command) = self.commands.recv_timeout(WORKERS_INTERVAL) {
                    self.take(command);
                }
            } else {
                return Ok(());
            }
            if is_calling {
                self.metrics.count_tool_wait(began.elapsed(), is_decoding);
            }
        }
    }

    /// Takes what workers have done.
    fn receive(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: &self.weights };
        let ready = self.waiting.iter().filter(|(_, waiter)| matches!(waiter, Waiter::Agent(_))).count();
        for prepared in agent.receive(&mut generator, ready) {
            self.wait(Waiter::Agent(Box::new(prepared)));
        }
    }

    /// Puts something in the queue for slots.
    fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter.claim().client, waiter.cost(), waiter);
    }

    /// Closes what nobody listens to any more.
    fn give_up_abandoned(&mut self) {
        self.waiting.retain(|waiter| match waiter {
            Waiter::Job(queued) => !queued.job.events.is_closed(),
            Waiter::Agent(prepared) => !prepared.job.events.is_closed(),
            Waiter::Paused { .. } => true,
        });
        if let Some(agent) = &mut self.agent {
            agent.give_up_abandoned(&mut EngineGenerator { engine: &mut self.engine, weights: &self.weights });
        }
        let engine = &mut self.engine;
        self.listeners.retain(|&sequence, listener| {
            let is_heard = !listener.job.events.is_closed();
            if !is_heard {
                engine.close(sequence);
            }
            is_heard
        });
        self.forget_closed();
    }

    /// Forgets sequences that are closed.
    fn forget_closed(&mut self) {
        let engine = &self.engine;
        self.waiting.retain(|waiter| match waiter {
            Waiter::Paused { sequence, .. } => engine.state(*sequence).is_some(),
            Waiter::Job(_) | Waiter::Agent(_) => true,
        });
        self.aside.retain(|sequence| engine.state(*sequence).is_some());
        self.slots.forget_closed(engine);
    }

    /// Scores a piece of a prompt. Those that are begun hold keys and values, so they are few.
    fn score(&mut self) {
        self.scorings.retain(|(_, scoring)| !scoring.is_abandoned());
        let begun = self.scorings.iter().filter(|(_, (_, scoring))| scoring.is_begun()).count();
        let may = |scoring: &Scoring| begun < SCORINGS_MAX || scoring.is_begun() || scoring.is_short();
        let Some((client, mut scoring)) = self.scorings.pop_where(|(_, scoring)| may(scoring)) else { return };
        if !scoring.is_done() {
            scoring.advance(&self.model, &self.weights, self.pixel_scale);
        }
        match scoring.is_done() {
            true => scoring.finish(),
            false => self.scorings.push(client, scoring.next_tokens(), (client, scoring)),
        }
    }

    /// Reads other weights over the present ones. If that ends half-way nothing goes on, so that no answer mixes them; a folder that is read
    /// whole makes the server of use again.
    fn read_weights(&mut self, dir: &Path) -> Result<(), ReloadError> {
        let reloaded = (self.reload)(&self.model, &mut self.weights, dir);
        match &reloaded {
            Ok(()) => self.incomplete = None,
            Err(ReloadError::Refused(_)) => {}
            Err(ReloadError::Incomplete(error)) => self.incomplete = Some(error.to_string()),
        }
        self.metrics.set_weights(self.weights.version, self.incomplete.clone());
        if let (Err(_), Some(reason)) = (&reloaded, self.incomplete.clone()) {
            tracing::error!("the weights are incomplete: {reason}");
            self.end_all(&|| ApiError::incomplete_weights(&reason));
        }
        reloaded
    }

    /// Puts the jobs that may start over back into the queue, whole.
    fn restart(&mut self) {
        let mut jobs: Vec<Arc<GenerateJob>> = Vec::new();
        let mut add = |job: &Arc<GenerateJob>| {
            if job.may_restart && !jobs.iter().any(|other| Arc::ptr_eq(other, job)) {
                jobs.push(job.clone());
            }
            !job.may_restart
        };
        let engine = &mut self.engine;
        self.listeners.retain(|&sequence, listener| {
            let stays = add(&listener.job);
            if !stays {
                engine.close(sequence);
            }
            stays
        });
        // Of some the rest was still waiting.
        self.waiting.retain(|waiter| match waiter {
            Waiter::Job(queued) if queued.answers.start > 0 => add(&queued.job),
            Waiter::Job(_) | Waiter::Agent(_) | Waiter::Paused { .. } => true,
        });
        self.forget_closed();
        for job in jobs {
            let _ = job.events.send(Ok(RequestEvent::Restarted(job.first..job.first + job.n)));
            let waiting = self.metrics.wait();
            self.wait(Waiter::Job(Queued::new(job, waiting, None)));
        }
    }

    /// Gives slots to those who wait, in fair order. If none is free, it pauses a sequence of the request that holds the most slots; for a small
    /// request also one of a large request.
    fn fill_slots(&mut self) {
        self.step_aside();
        while !self.waiting.is_empty() {
            let free = self.engine.free_slots();
            let first = self.waiting.iter().next().map(|(spot, waiter)| (spot, waiter.slots()));
            let chosen = match first {
                Some((spot, slots)) if slots <= free => Some((spot, free)),
                _ => self.preempt_for_waiter(free),
            };
            let Some((spot, slots)) = chosen else { return };
            let Some(waiter) = self.waiting.take(spot) else { return };
            let rest = match waiter {
                Waiter::Job(job) => self.open(job, slots).map(Waiter::Job),
                Waiter::Agent(prepared) => self.open_chat(prepared).map(Waiter::Agent),
                Waiter::Paused { sequence, .. } => {
                    self.engine.resume(sequence);
                    self.slots.resume(sequence);
                    None
                }
            };
            if let Some(rest) = rest {
                self.wait(rest);
            }
        }
    }

    /// Pauses sequences whose tool is running, and queues them again when it returns.
    fn step_aside(&mut self) {
        let Some(agent) = &self.agent else { return };
        for sequence in agent.sequences() {
            if self.engine.state(sequence) == Some(SequenceState::Stopped) {
                self.engine.pause(sequence);
                self.aside.insert(sequence);
            }
        }
        let is_back = |sequence: &&u64| self.engine.state(**sequence) != Some(SequenceState::StoppedAside);
        for sequence in self.aside.iter().filter(is_back).copied().collect::<Vec<_>>() {
            self.aside.remove(&sequence);
            if self.engine.state(sequence).is_some()
                && let Some(claim) = self.slots.claim(sequence)
            {
                let waiting = self.metrics.wait();
                self.wait(Waiter::Paused { sequence, claim, _waiting: waiting });
            }
        }
    }

    /// Pauses victims for the first waiter that is entitled to slots; returns its queue position and slot count. Free slots stay reserved for
    /// the head of the queue. The number of paused sequences is limited, so that they find their pages again; a small request may exceed the
    /// limit, for it is soon done.
    fn preempt_for_waiter(&mut self, free: usize) -> Option<(Spot, usize)> {
        self.forget_closed();
        let may_rest = self.engine.paused().saturating_sub(self.aside.len()) < self.engine.slots();
        let usage = self.slots.usage(&self.engine);
        let waiters = self.waiting.iter().enumerate();
        let (number, spot, claim, slots) = waiters
            .map(|(number, (spot, waiter))| (number, spot, waiter.claim(), waiter.slots()))
            .find(|(_, _, claim, _)| (may_rest || claim.is_small) && usage.victim(*claim).is_some())?;
        let missing = slots - if number == 0 { free } else { 0 };
        for _ in 0..missing {
            let victim = self.slots.usage(&self.engine).victim(claim)?;
            let rests = self.slots.claim(victim)?;
            self.engine.pause(victim);
            let waiting = self.metrics.wait();
            self.wait(Waiter::Paused { sequence: victim, claim: rests, _waiting: waiting });
        }
        Some((spot, slots))
    }

    /// Opens a chat; it comes back if there is no room.
    fn open_chat(&mut self, prepared: Box<PreparedJob>) -> Option<Box<PreparedJob>> {
        let agent = self.agent.as_mut()?;
        let claim = prepared.claim();
        let first = self.sequences_opened;
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: &self.weights };
        match agent.open(&mut generator, prepared, first) {
            Ok(opened) => {
                self.sequences_opened += opened as u64;
                (first..self.sequences_opened).for_each(|sequence| self.slots.insert(sequence, claim));
                None
            }
            Err(prepared) => Some(prepared),
        }
    }

    /// Opens as many answers of a job as it may take slots, or a few while others wait; the rest comes back.
    fn open(&mut self, mut queued: Queued, slots: usize) -> Option<Queued> {
        let job = queued.job.clone();
        let first = self.sequences_opened;
        let most = if self.waiting.is_empty() { usize::MAX } else { GROUP_MAX };
        let n = queued.answers.len().min(most).min(slots);
        let request = GenerateRequest {
            token_ids: job.prompt.token_ids.clone(),
            images: job.prompt.images.clone(),
            sequences: (first..first + n as u64).collect(),
            first_counter: Some(queued.answers.start as u64),
            top_logprobs: job.top_logprobs,
            top_logprobs_processed: job.top_logprobs_processed,
            seed: job.seed,
            sampling: job.sampling.clone(),
            adaptive: None,
            constraints: job.constraints.clone(),
            stops: job.stops.clone(),
        };
        match self.engine.open(&request) {
            Ok(()) => {
                self.sequences_opened += n as u64;
                let claim = Claim::new(job.client, job.prompt.token_ids.len(), job.n, job.stops.total_tokens);
                for (sequence, answer) in request.sequences.into_iter().zip(queued.answers.by_ref()) {
                    let listener = Listener { choice: job.first + answer, job: job.clone() };
                    self.listeners.insert(sequence, listener);
                    self.slots.insert(sequence, claim);
                }
                queued.place = None;
            }
            Err(GeneratorError::Full) => {}
            Err(error) => {
                let _ = job.events.send(Err(error.into()));
                return None;
            }
        }
        (!queued.answers.is_empty()).then_some(queued)
    }

    /// Reports to the metrics how many sequences run, the share of pages in use, and the engine's counters.
    fn measure(&mut self) {
        let (free, pages) = self.engine.pages();
        let usage = 1.0 - free as f64 / pages.max(1) as f64;
        let agent_sequences = self.agent.as_ref().map_or(0, |agent| agent.sequences().len());
        let resting = self.engine.paused().saturating_sub(self.aside.len());
        self.metrics.set_load(
            (self.listeners.len() + agent_sequences).saturating_sub(resting),
            usage,
            self.engine.statistics(),
        );
    }

    /// Sends tokens to those who wait for them.
    fn deliver(&mut self, events: Vec<TokenEvent>) {
        if let Some(agent) = &mut self.agent {
            agent.take(&mut EngineGenerator { engine: &mut self.engine, weights: &self.weights }, &events);
        }
        for event in events {
            let (sequence, has_stopped) = (event.sequence, event.stopped.is_some());
            self.slots.count(sequence);
            if let Some(listener) = self.listeners.get(&sequence) {
                let _ = listener.job.events.send(Ok(RequestEvent::Output(listener.choice, event)));
            }
            if has_stopped && self.listeners.remove(&sequence).is_some() {
                self.engine.close(sequence);
            }
        }
    }

    /// Sends an error to all who wait.
    fn fail(&mut self, error: GeneratorError) -> GeneratorError {
        let reason = error.to_string();
        self.end_all(&|| GeneratorError::Failed(reason.clone().into()).into());
        error
    }

    /// Ends all that waits or is under way, with an error.
    fn end_all(&mut self, error: &dyn Fn() -> ApiError) {
        if let Some(agent) = &mut self.agent {
            agent.fail(&mut EngineGenerator { engine: &mut self.engine, weights: &self.weights }, error);
        }
        while let Some(waiter) = self.waiting.pop_where(|_| true) {
            match waiter {
                Waiter::Job(queued) => drop(queued.job.events.send(Err(error()))),
                Waiter::Agent(prepared) => prepared.refuse(error()),
                Waiter::Paused { .. } => {}
            }
        }
        for (sequence, listener) in std::mem::take(&mut self.listeners) {
            self.engine.close(sequence);
            let _ = listener.job.events.send(Err(error()));
        }
        self.scorings = FairQueue::default();
        self.forget_closed();
    }
}
