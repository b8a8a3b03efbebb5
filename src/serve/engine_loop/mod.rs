//! The loop that owns the engine and the weights: commands come through one channel, the tokens of a request go back through its own.

mod command;
mod dispatch;
pub mod fair;
pub mod prompt_logprobs;
pub mod slots;
mod waiter;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::checkpoint::weights::ReloadError;
use crate::engine::Engine;
use crate::engine::request::{GeneratorError, TokenEvent};
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::patch_embed::PixelScale;
use crate::rollout::engine_generator::EngineGenerator;
use crate::serve::agent::session::AgentSessions;
use crate::serve::error::ApiError;
use crate::serve::metrics::ServerMetrics;
use fair::{Client, FairQueue};
use prompt_logprobs::Scoring;
use slots::Slots;
use waiter::Waiter;

pub use command::{Command, GenerateJob, InFlightPolicy, Queued, RequestEvent};

/// Prompts of several pieces that are scored at the same time.
const SCORINGS_MAX: usize = 4;
/// How often workers are looked at while there is nothing to decode.
const WORKERS_INTERVAL: Duration = Duration::from_millis(1);

/// After this long without a command unused memory goes back to the system.
const IDLE: Duration = Duration::from_secs(1);

/// An open sequence's way back to its request.
struct Listener {
    choice: usize,
    job: Arc<GenerateJob>,
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
