//! The loop that owns the engine and the weights: orders come through a channel, tokens go back through each order's own.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::acting::{ActJob, Acting, Prepared};
use super::error::ApiError;
use super::gauges::{Gauges, Waiting};
use super::prompt_logprobs::{Scoring, TokenLogprobs};
use crate::checkpoint::weights::ReloadError;
use crate::engine::Engine;
use crate::engine::request::{Event, GeneratorError, Opening, Sampled, Sampling, StopReason, Stops};
use crate::engine::sampling::constraints::Constraints;
use crate::model::Model;
use crate::model::parameters::Weights;
use crate::ops::patch_embed::PixelScale;
use crate::prompt::Prompt;
use crate::rollout::engine_generator::EngineGenerator;

/// How often workers are looked at while there is nothing to decode.
const WORKERS_INTERVAL: Duration = Duration::from_millis(1);

/// Something for the loop to do.
pub enum Order {
    /// Answer a prompt.
    Generate(Queued),
    /// Play a chat to its end.
    Act(Box<ActJob>),
    /// Give the log-probabilities of a prompt's tokens, and of so many of the likeliest in each place.
    Score(Prompt, usize, oneshot::Sender<Vec<TokenLogprobs>>),
    /// Read the weights of a folder in place of the present ones; the answer is their version.
    Reload(PathBuf, Running, oneshot::Sender<Result<u64, ReloadError>>),
    /// Forget what was computed for earlier prompts, but for what is in use.
    Forget(oneshot::Sender<()>),
    /// Somebody left before the end.
    Leave,
}

/// What becomes of answers under way when the weights change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Running {
    /// They go on under the new weights, behind the tokens that they have, whose keys and values are computed anew.
    #[default]
    Continue,
    /// They start over, but for those of which a part was given out already, and those in an environment, whose calls cannot be undone.
    Restart,
}

/// A prompt that waits for room.
pub struct Queued {
    /// What is asked.
    pub job: Arc<Job>,
    /// Its place in the queue.
    pub waiting: Waiting,
}

/// A prompt to answer, several times at once.
pub struct Job {
    /// The prompt.
    pub prompt: Prompt,
    /// Number of its first answer in the request.
    pub first: usize,
    /// How many answers.
    pub n: usize,
    /// Seed of the random draws.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// How many of the likeliest tokens are told beside each.
    pub likeliest: usize,
    /// Whether their log-probabilities are those of the distribution drawn from.
    pub likeliest_processed: bool,
    /// What is asked of answers besides.
    pub constraints: Arc<Constraints>,
    /// When answers end.
    pub stops: Stops,
    /// Nothing of the answers is given out before all have ended.
    pub may_restart: bool,
    /// Where news goes. When nobody listens any more, the job is given up.
    pub events: UnboundedSender<Result<News, ApiError>>,
}

/// What happened to a job.
#[derive(Clone, Debug)]
pub enum News {
    /// A token was drawn, or none could be.
    Drawn(Progress),
    /// The answers of these numbers start over.
    Restarted(Range<usize>),
}

/// A drawn token and the likeliest ones in its place, with their log-probabilities.
#[derive(Clone, Debug)]
pub struct Token {
    /// The token.
    pub drawn: Sampled,
    /// As many as were asked for.
    pub likeliest: Vec<(u32, f32)>,
    /// Version of the weights that it was drawn under.
    pub version: u64,
}

/// A token of an answer, or its end.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The answer's number in the request.
    pub choice: usize,
    /// The token; none where no token was allowed.
    pub token: Option<Token>,
    /// If it was the last, why.
    pub stopped: Option<StopReason>,
}

/// An open sequence's way back to its request.
struct Listener {
    choice: usize,
    job: Arc<Job>,
}

/// Something that waits for room.
enum Waiter {
    Job(Queued),
    Act(Box<Prepared>),
}

/// Reads the weights of a folder over those of a model.
pub type Reload = fn(&Model, &mut Weights, &Path) -> Result<(), ReloadError>;

/// The engine, the weights, and who waits for what.
pub struct Desk<'a> {
    model: Model,
    weights: Weights,
    reload: Reload,
    /// Why the weights are incomplete. Nothing is computed with such weights.
    incomplete: Option<String>,
    engine: Engine,
    pixel_scale: PixelScale,
    orders: Receiver<Order>,
    waiting: VecDeque<Waiter>,
    listeners: BTreeMap<u64, Listener>,
    /// Where the server has an environment.
    acting: Option<Acting<'a>>,
    /// Prompts to score, one after the other.
    scorings: VecDeque<Scoring>,
    /// There may be something that nobody listens to.
    somebody_left: bool,
    sequences_opened: u64,
    gauges: Arc<Gauges>,
}

impl<'a> Desk<'a> {
    /// With nothing to do yet.
    pub fn new(
        (model, weights, reload): (Model, Weights, Reload),
        engine: Engine,
        pixel_scale: PixelScale,
        orders: Receiver<Order>,
        acting: Option<Acting<'a>>,
        gauges: Arc<Gauges>,
    ) -> Desk<'a> {
        Desk {
            model,
            weights,
            reload,
            incomplete: None,
            engine,
            pixel_scale,
            orders,
            waiting: VecDeque::new(),
            listeners: BTreeMap::new(),
            acting,
            scorings: VecDeque::new(),
            somebody_left: false,
            sequences_opened: 0,
            gauges,
        }
    }

    /// Works until nobody can send an order any more.
    ///
    /// # Errors
    /// When the engine failed; whoever waited was told.
    pub fn run(mut self) -> Result<(), GeneratorError> {
        while let Ok(order) = self.orders.recv() {
            self.take(order);
            // On the worker pool itself, as long as there is work: its parallel ops then share it from where they stand.
            rayon::scope(|_| self.work_off())?;
        }
        Ok(())
    }

    fn take(&mut self, order: Order) {
        // Whoever ordered may have gone; then nobody hears the answer.
        match order {
            Order::Generate(queued) => match &self.incomplete {
                None => self.waiting.push_back(Waiter::Job(queued)),
                Some(reason) => drop(queued.job.events.send(Err(ApiError::incomplete_weights(reason)))),
            },
            Order::Act(job) => match (&mut self.acting, &self.incomplete) {
                (_, Some(reason)) => job.refuse(ApiError::incomplete_weights(reason)),
                (Some(acting), None) => acting.add(*job),
                (None, None) => job.refuse(ApiError::failed("this server has no environment")),
            },
            // Whose weights are incomplete is told by the routes, when nothing comes back.
            Order::Score(..) if self.incomplete.is_some() => {}
            Order::Score(prompt, top, reply) => {
                self.scorings.push_back(Scoring::new(&self.model, prompt, top, reply));
            }
            Order::Reload(dir, running, reply) => {
                let reloaded = self.read_weights(&dir);
                if reloaded.is_ok() && running == Running::Restart {
                    self.restart();
                }
                let _ = reply.send(reloaded.map(|()| self.weights.version));
            }
            Order::Forget(reply) => {
                self.engine.forget_images();
                let (free, pages) = self.engine.pages();
                match free == pages {
                    true => self.engine.release_pages(),
                    false => self.engine.forget_prefixes(),
                }
                let _ = reply.send(());
            }
            Order::Leave => self.somebody_left = true,
        }
    }

    /// Steps until all is answered.
    fn work_off(&mut self) -> Result<(), GeneratorError> {
        loop {
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            if std::mem::take(&mut self.somebody_left) {
                self.give_up_abandoned();
            }
            self.receive();
            self.admit();
            self.measure();
            self.score();
            let began = Instant::now();
            let acts = |is: fn(&Acting<'a>) -> bool| self.acting.as_ref().is_some_and(is);
            let (is_calling, is_working) = (acts(Acting::is_calling), acts(Acting::is_working));
            let is_decoding = !self.listeners.is_empty() || acts(Acting::is_running);
            if is_decoding {
                match self.engine.step(&self.weights) {
                    Ok(events) => self.deliver(events),
                    Err(error) => return Err(self.fail(error)),
                }
            } else if !self.scorings.is_empty() {
                continue;
            } else if is_working {
                if let Ok(order) = self.orders.recv_timeout(WORKERS_INTERVAL) {
                    self.take(order);
                }
            } else {
                return Ok(());
            }
            if is_calling {
                self.gauges.count_tool_wait(began.elapsed(), is_decoding);
            }
        }
    }

    /// Takes what workers have done.
    fn receive(&mut self) {
        let Some(acting) = &mut self.acting else { return };
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: &self.weights };
        self.waiting.extend(acting.receive(&mut generator).into_iter().map(|prepared| Waiter::Act(Box::new(prepared))));
    }

    /// Closes what nobody listens to any more.
    fn give_up_abandoned(&mut self) {
        self.waiting.retain(|waiter| match waiter {
            Waiter::Job(queued) => !queued.job.events.is_closed(),
            Waiter::Act(_) => true,
        });
        if let Some(acting) = &mut self.acting {
            acting.give_up_abandoned(&mut EngineGenerator { engine: &mut self.engine, weights: &self.weights });
        }
        let engine = &mut self.engine;
        self.listeners.retain(|&sequence, listener| {
            let is_heard = !listener.job.events.is_closed();
            if !is_heard {
                engine.close(sequence);
            }
            is_heard
        });
    }

    /// A piece of the first prompt that is to be scored.
    fn score(&mut self) {
        let Some(scoring) = self.scorings.front_mut() else { return };
        let is_awaited = !scoring.is_abandoned();
        if is_awaited && !scoring.is_done() {
            scoring.advance(&self.model, &self.weights, self.pixel_scale);
        }
        if !is_awaited || scoring.is_done() {
            self.scorings.pop_front().into_iter().for_each(Scoring::finish);
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
        self.gauges.set_weights(self.weights.version, self.incomplete.clone());
        if let (Err(_), Some(reason)) = (&reloaded, self.incomplete.clone()) {
            tracing::error!("the weights are incomplete: {reason}");
            self.end_all(&|| ApiError::incomplete_weights(&reason));
        }
        reloaded
    }

    /// Puts the jobs that may start over back to the front of the queue.
    fn restart(&mut self) {
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        let engine = &mut self.engine;
        self.listeners.retain(|&sequence, listener| {
            if listener.job.may_restart {
                engine.close(sequence);
                if !jobs.iter().any(|job| Arc::ptr_eq(job, &listener.job)) {
                    jobs.push(listener.job.clone());
                }
            }
            !listener.job.may_restart
        });
        for job in jobs.into_iter().rev() {
            let _ = job.events.send(Ok(News::Restarted(job.first..job.first + job.n)));
            self.waiting.push_front(Waiter::Job(Queued { job, waiting: self.gauges.wait() }));
        }
    }

    /// Opens what waits in order, as long as there is room.
    fn admit(&mut self) {
        while let Some(waiter) = self.waiting.pop_front() {
            let refused = match waiter {
                Waiter::Job(job) => self.open(job).map(Waiter::Job),
                Waiter::Act(prepared) => self.open_chat(prepared).map(Waiter::Act),
            };
            if let Some(waiter) = refused {
                self.waiting.push_front(waiter);
                return;
            }
        }
    }

    /// Opens a chat; it comes back if there is no room.
    fn open_chat(&mut self, prepared: Box<Prepared>) -> Option<Box<Prepared>> {
        let acting = self.acting.as_mut()?;
        let mut generator = EngineGenerator { engine: &mut self.engine, weights: &self.weights };
        match acting.open(&mut generator, prepared, self.sequences_opened) {
            Ok(opened) => {
                self.sequences_opened += opened as u64;
                None
            }
            Err(prepared) => Some(prepared),
        }
    }

    /// Opens a job; it comes back if there is no room.
    fn open(&mut self, queued: Queued) -> Option<Queued> {
        let job = &queued.job;
        let first = self.sequences_opened;
        let opening = Opening {
            token_ids: job.prompt.token_ids.clone(),
            images: job.prompt.images.clone(),
            sequences: (first..first + job.n as u64).collect(),
            first_counter: Some(0),
            likeliest: job.likeliest,
            likeliest_processed: job.likeliest_processed,
            seed: job.seed,
            sampling: job.sampling.clone(),
            adaptive: None,
            constraints: job.constraints.clone(),
            stops: job.stops.clone(),
        };
        match self.engine.open(&opening) {
            Ok(()) => {
                self.sequences_opened += job.n as u64;
                for (place, sequence) in opening.sequences.into_iter().enumerate() {
                    let listener = Listener { choice: job.first + place, job: job.clone() };
                    self.listeners.insert(sequence, listener);
                }
            }
            Err(GeneratorError::Full) => return Some(queued),
            Err(error) => {
                let _ = job.events.send(Err(error.into()));
            }
        }
        None
    }

    fn measure(&mut self) {
        let (free, pages) = self.engine.pages();
        let usage = 1.0 - free as f64 / pages.max(1) as f64;
        let acting = self.acting.as_ref().map_or(0, Acting::open_sequences);
        self.gauges.set_load(self.listeners.len() + acting, usage, self.engine.statistics());
    }

    /// Gives tokens to those who wait for them. A sequence's stop comes right behind its last token, or alone where
    /// none was allowed.
    fn deliver(&mut self, events: Vec<Event>) {
        if let Some(acting) = &mut self.acting {
            acting.take(&mut EngineGenerator { engine: &mut self.engine, weights: &self.weights }, &events);
        }
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            let (sequence, drawn, stopped) = match event {
                Event::Token { sequence, token, likeliest } => {
                    let reason = events.peek().and_then(|next| match next {
                        Event::Stopped { sequence: next, reason } if *next == sequence => Some(*reason),
                        _ => None,
                    });
                    events.next_if(|_| reason.is_some());
                    (sequence, Some((token, likeliest)), reason)
                }
                Event::Stopped { sequence, reason } => (sequence, None, Some(reason)),
            };
            if let Some(listener) = self.listeners.get(&sequence) {
                let version = self.weights.version;
                let token = drawn.map(|(drawn, likeliest)| Token { drawn, likeliest, version });
                let progress = Progress { choice: listener.choice, token, stopped };
                let _ = listener.job.events.send(Ok(News::Drawn(progress)));
            }
            if stopped.is_some() && self.listeners.remove(&sequence).is_some() {
                self.engine.close(sequence);
            }
        }
    }

    /// Tells all who wait that nothing will come.
    fn fail(&mut self, error: GeneratorError) -> GeneratorError {
        let reason = error.to_string();
        self.end_all(&|| GeneratorError::Failed(reason.clone().into()).into());
        error
    }

    /// Ends all that waits or is under way, with an error.
    fn end_all(&mut self, error: &dyn Fn() -> ApiError) {
        if let Some(acting) = &mut self.acting {
            acting.fail(&mut EngineGenerator { engine: &mut self.engine, weights: &self.weights }, error);
        }
        for waiter in self.waiting.drain(..) {
            match waiter {
                Waiter::Job(queued) => drop(queued.job.events.send(Err(error()))),
                Waiter::Act(prepared) => prepared.refuse(error()),
            }
        }
        for (sequence, listener) in std::mem::take(&mut self.listeners) {
            self.engine.close(sequence);
            let _ = listener.job.events.send(Err(error()));
        }
        self.scorings.clear();
    }
}
