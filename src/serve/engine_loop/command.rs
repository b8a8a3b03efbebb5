//! What crosses the channels of the engine loop: the commands that it is sent, and the events that it sends back.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::fair::{Client, Place};
use super::prompt_logprobs::TokenLogprobs;
use crate::checkpoint::weights::ReloadError;
use crate::engine::request::{Sampling, Stops, TokenEvent};
use crate::engine::sampling::constraints::Constraints;
use crate::prompt::Prompt;
use crate::serve::agent::session::AgentJob;
use crate::serve::error::ApiError;
use crate::serve::metrics::Waiting;

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
    pub(super) job: Arc<GenerateJob>,
    /// Which of its answers are not opened yet.
    pub(super) answers: Range<usize>,
    /// It counts as waiting until all are.
    _waiting: Waiting,
    /// Its place in the admission queue. Left when every prompt of the request has an answer open.
    pub(super) place: Option<Arc<Place>>,
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
