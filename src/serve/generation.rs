//! Collects the engine's outputs of one request and detokenises them. When it is dropped, nobody listens to its jobs any more, and the loop
//! closes them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::admission::RequestGuard;
use super::answer_logprobs::LogprobsMode;
use super::app::App;
use super::choice::{Choice, Finish};
use super::engine_loop::{self, Command, Job, Progress, Queued, Token};
use super::error::ApiError;
use super::fair::Client;
use super::metrics::Active;
use super::openai::Usage;
use super::prompt_logprobs::TokenLogprobs;
use super::sampling::Settings;
use crate::engine::request::{StopReason, Stops};
use crate::prompt::Prompt;

/// Answers under way.
pub struct Generation {
    /// What all requests of the server share.
    pub app: Arc<App>,
    /// The request's settings.
    pub settings: Arc<Settings>,
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Log-probabilities of each prompt, where asked for.
    pub prompt_logprobs: Vec<Arc<Vec<TokenLogprobs>>>,
    choices: Vec<InProgressChoice>,
    /// Answers that have not ended.
    open: usize,
    /// Answers that end without a token and are not reported yet.
    ended: Range<usize>,
    events: UnboundedReceiver<Result<engine_loop::News, ApiError>>,
    /// News that was looked at already.
    first: Option<News>,
    began: Instant,
    _active: Arc<Active>,
}

/// An answer, and when its tokens came.
struct InProgressChoice {
    choice: Choice,
    has_ended: bool,
    first_token: Option<Instant>,
    last_token: Instant,
}

/// What happened to the answers.
#[derive(Debug)]
pub enum News {
    /// One got a token, or ended without one.
    Sampled(SampledText),
    /// These start over: what they had is void. Never those of a stream.
    Restarted(Range<usize>),
}

/// What a token brought to an answer.
#[derive(Debug)]
pub struct SampledText {
    /// The answer's number.
    pub choice: usize,
    /// The token, if there is one.
    pub token: Option<Token>,
    /// Text that can be given out now; what may begin a stop string waits.
    pub text: String,
    /// Characters that were complete before the token.
    pub offset: usize,
    /// How the answer ended, if it did.
    pub finish: Option<Finish>,
}

impl InProgressChoice {
    fn new(settings: &Arc<Settings>, began: Instant) -> InProgressChoice {
        InProgressChoice {
            choice: Choice::new(settings.clone()),
            has_ended: false,
            first_token: None,
            last_token: began,
        }
    }
}

impl Generation {
    /// Hands prompts to the loop.
    ///
    /// # Errors
    /// When prompt scoring fails or the engine loop has ended.
    pub async fn start(
        app: &Arc<App>,
        settings: Settings,
        prompts: Vec<Prompt>,
        is_stream: bool,
        guard: RequestGuard,
    ) -> Result<Generation, ApiError> {
        let began = Instant::now();
        let settings = Arc::new(settings);
        let mut prompt_logprobs = Vec::new();
        if let Some(top) = settings.prompt_logprobs {
            for prompt in &prompts {
                prompt_logprobs.push(Arc::new(score(app, guard.client, prompt.clone(), top).await?));
            }
        }
        let (sender, events) = unbounded_channel();
        let choices = prompts.len() * settings.n;
        let is_scored_only = settings.max_tokens == Some(0);
        let token_ids = prompts.iter().map(|prompt| prompt.token_ids.clone()).collect();
        for (number, prompt) in prompts.into_iter().enumerate() {
            app.metrics.count_prompt(prompt.token_ids.len());
            if is_scored_only {
                continue;
            }
            let tokens = app.defaults.answer_tokens(&settings, prompt.token_ids.len());
            let job = Job {
                client: guard.client,
                prompt,
                first: number * settings.n,
                n: settings.n,
                seed: settings.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
                sampling: settings.sampling.clone(),
                top_logprobs: settings.logprobs.unwrap_or(0),
                top_logprobs_processed: app.defaults.logprobs_mode == LogprobsMode::ProcessedLogprobs,
                constraints: settings.constraints.clone(),
                stops: Stops { turn_tokens: tokens, total_tokens: tokens, ..settings.stops.clone() },
                may_restart: !is_stream,
                events: sender.clone(),
            };
            app.send(Command::Generate(Queued::new(Arc::new(job), app.metrics.wait(), Some(guard.place.clone()))))?;
        }
        let in_progress = || InProgressChoice::new(&settings, began);
        Ok(Generation {
            app: app.clone(),
            prompts: token_ids,
            prompt_logprobs,
            choices: std::iter::repeat_with(in_progress).take(choices).collect(),
            ended: if is_scored_only { 0..choices } else { 0..0 },
            settings,
            open: choices,
            events,
            first: None,
            began,
            _active: guard.active,
        })
    }

    /// Waits for the first token, so that a refusal can still be a status of its own.
    pub async fn wait(&mut self) -> Result<(), ApiError> {
        self.first = self.next().await?;
        Ok(())
    }

    /// What happens next; none when all answers have ended.
    pub async fn next(&mut self) -> Result<Option<News>, ApiError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if let Some(choice) = self.ended.next() {
            let progress = Progress { choice, token: None, stopped: Some(StopReason::TurnTokens) };
            return Ok(Some(News::Sampled(self.sampled(progress))));
        }
        if self.open == 0 {
            return Ok(None);
        }
        match self.events.recv().await.ok_or_else(|| ApiError::failed("the engine is gone"))?? {
            engine_loop::News::Sampled(progress) => Ok(Some(News::Sampled(self.sampled(progress)))),
            engine_loop::News::Restarted(choices) => {
                for in_progress in &mut self.choices[choices.clone()] {
                    self.open += usize::from(in_progress.has_ended);
                    *in_progress = InProgressChoice::new(&self.settings, self.began);
                }
                Ok(Some(News::Restarted(choices)))
            }
        }
    }

    fn sampled(&mut self, progress: Progress) -> SampledText {
        let in_progress = &mut self.choices[progress.choice];
        let delta = in_progress.choice.take(&progress, self.app.prompts.processor.tokenizer(), &self.app.defaults.eos);
        let now = Instant::now();
        match in_progress.first_token {
            _ if progress.token.is_none() => {}
            None => {
                in_progress.first_token = Some(now);
                self.app.metrics.count_first_token((now - self.began).as_secs_f64());
            }
            Some(_) => self.app.metrics.count_token((now - in_progress.last_token).as_secs_f64()),
        }
        in_progress.last_token = now;
        in_progress.has_ended = delta.finish.is_some();
        self.open -= usize::from(in_progress.has_ended);
        SampledText {
            choice: progress.choice,
            token: progress.token,
            text: delta.text,
            offset: delta.offset,
            finish: delta.finish,
        }
    }

    /// Notes how an answer ended.
    pub fn finished(&self, choice: usize, reason: &str) {
        let InProgressChoice { choice, first_token, last_token, .. } = &self.choices[choice];
        let further = choice.tokens.saturating_sub(1);
        let decoding = first_token.map(|first| (*last_token - first).as_secs_f64());
        let per_token = decoding.filter(|_| further > 0).map(|seconds| seconds / further as f64);
        self.app.metrics.count_finish(reason, self.began.elapsed().as_secs_f64(), per_token);
    }

    /// How many answers there are.
    pub fn answers(&self) -> usize {
        self.choices.len()
    }

    /// Index of the prompt that a choice belongs to.
    pub fn prompt_of(&self, choice: usize) -> usize {
        choice / self.settings.n
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        let prompt_tokens = self.prompts.iter().map(Vec::len).sum();
        let completion_tokens = self.choices.iter().map(|in_progress| in_progress.choice.tokens).sum();
        Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.open > 0 {
            // Nobody listens any more; where the engine is gone, nobody speaks either.
            self.events.close();
            let _ = self.app.send(Command::Abort);
        }
        for _ in 0..self.open {
            self.app.metrics.count_finish("abort", self.began.elapsed().as_secs_f64(), None);
        }
    }
}

/// Log-probabilities of a prompt.
async fn score(app: &App, client: Client, prompt: Prompt, top: usize) -> Result<Vec<TokenLogprobs>, ApiError> {
    let (reply, scored) = oneshot::channel();
    app.send(Command::Score(client, prompt, top, reply))?;
    scored.await.map_err(|_| match app.metrics.incomplete_weights() {
        Some(reason) => ApiError::incomplete_weights(&reason),
        None => ApiError::failed("the engine is gone"),
    })
}
