//! The answers of one request as they grow. When it is dropped, nobody listens to its jobs any more, and the loop closes them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::choice::{Choice, ChoiceDelta};
use super::wire::Usage;
use crate::engine::request::{StopReason, Stops, TokenEvent};
use crate::engine::sampling::constraints::Constraints;
use crate::prompt::Prompt;
use crate::serve::admission::RequestGuard;
use crate::serve::app::App;
use crate::serve::engine_loop::fair::Client;
use crate::serve::engine_loop::prompt_logprobs::TokenLogprobs;
use crate::serve::engine_loop::{Command, GenerateJob, Queued, RequestEvent};
use crate::serve::error::ApiError;
use crate::serve::metrics::Active;
use crate::serve::request::settings::{LogprobsMode, Settings};

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
    /// Version of the weights that the last token was sampled under.
    pub weights_version: u64,
    choices: Vec<InProgressChoice>,
    /// Answers that have not ended.
    open: usize,
    /// Answers that end without a token and are not reported yet.
    ended: Range<usize>,
    events: UnboundedReceiver<Result<RequestEvent, ApiError>>,
    began: Instant,
    _active: Arc<Active>,
}

/// An answer, and when its tokens came.
struct InProgressChoice {
    choice: Choice,
    /// What came of it since it was last taken.
    delta: Option<ChoiceDelta>,
    has_ended: bool,
    first_token: Option<Instant>,
    last_token: Instant,
}

impl InProgressChoice {
    fn new(settings: &Arc<Settings>, began: Instant) -> InProgressChoice {
        InProgressChoice {
            choice: Choice::new(settings.clone()),
            delta: None,
            has_ended: false,
            first_token: None,
            last_token: began,
        }
    }
}

impl Generation {
    /// Hands prompts to the loop. Answers of which nothing is given out before all have ended may restart under other weights.
    ///
    /// # Errors
    /// When prompt scoring fails or the engine loop has ended.
    pub async fn start(
        app: &Arc<App>,
        settings: Settings,
        constraints: Arc<Constraints>,
        prompts: Vec<Prompt>,
        may_restart: bool,
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
            let job = GenerateJob {
                client: guard.client,
                prompt,
                first: number * settings.n,
                n: settings.n,
                seed: settings.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
                sampling: settings.sampling.clone(),
                top_logprobs: settings.logprobs.unwrap_or(0),
                top_logprobs_processed: app.defaults.logprobs_mode == LogprobsMode::ProcessedLogprobs,
                constraints: constraints.clone(),
                stops: Stops { turn_tokens: tokens, total_tokens: tokens, ..settings.stops.clone() },
                may_restart,
                events: sender.clone(),
            };
            app.send(Command::Generate(Queued::new(Arc::new(job), app.metrics.wait(), Some(guard.place.clone()))))?;
        }
        let in_progress = || InProgressChoice::new(&settings, began);
        Ok(Generation {
            app: app.clone(),
            prompts: token_ids,
            prompt_logprobs,
            weights_version: app.metrics.weights_version(),
            choices: std::iter::repeat_with(in_progress).take(choices).collect(),
            ended: if is_scored_only { 0..choices } else { 0..0 },
            settings,
            open: choices,
            events,
            began,
            _active: guard.active,
        })
    }

    /// Waits for what comes next of an answer; false when all have ended.
    ///
    /// # Errors
    /// What ended them all.
    pub async fn next(&mut self) -> Result<bool, ApiError> {
        if let Some(choice) = self.ended.next() {
            self.take(choice, TokenEvent { stopped: Some(StopReason::TurnTokens), ..TokenEvent::default() });
            return Ok(true);
        }
        if self.open == 0 {
            return Ok(false);
        }
        match self.events.recv().await.ok_or_else(ApiError::engine_gone)?? {
            RequestEvent::Output(choice, event) => self.take(choice, event),
            RequestEvent::Restarted(choices) => {
                for in_progress in &mut self.choices[choices] {
                    self.open += usize::from(in_progress.has_ended);
                    *in_progress = InProgressChoice::new(&self.settings, self.began);
                }
            }
        }
        Ok(true)
    }

    /// Waits until there is something to take, and for nothing else; false when all answers have ended.
    ///
    /// # Errors
    /// What ended them all. What came before can still be taken.
    pub async fn next_deltas(&mut self) -> Result<bool, ApiError> {
        if self.choices.iter().all(|in_progress| in_progress.delta.is_none()) && !self.next().await? {
            return Ok(false);
        }
        while let Some(goes_on) = self.next().now_or_never() {
            if !goes_on? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What came of the answers since this was last called, each with its number, in order.
    pub fn take_deltas(&mut self) -> Vec<(usize, ChoiceDelta)> {
        let choices = self.choices.iter_mut().enumerate();
        choices.filter_map(|(number, in_progress)| Some((number, in_progress.delta.take()?))).collect()
    }

    fn take(&mut self, number: usize, event: TokenEvent) {
        let in_progress = &mut self.choices[number];
        if event.token.is_some() {
            self.weights_version = event.weights_version;
            let now = Instant::now();
            match in_progress.first_token {
                None => {
                    in_progress.first_token = Some(now);
                    self.app.metrics.count_first_token((now - self.began).as_secs_f64());
                }
                Some(_) => self.app.metrics.count_token((now - in_progress.last_token).as_secs_f64()),
            }
            in_progress.last_token = now;
        }
        let tokenizer = self.app.prompts.processor.tokenizer();
        let delta = in_progress.choice.take(event, tokenizer, &self.app.defaults.eos);
        if let Some(finish) = &delta.finish {
            in_progress.has_ended = true;
            self.open -= 1;
            self.app.metrics.count_finish(
                finish.reason,
                self.began.elapsed().as_secs_f64(),
                in_progress.seconds_per_token(),
            );
        }
        in_progress.delta.get_or_insert_default().extend(delta);
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

impl InProgressChoice {
    /// Of the tokens after the first, if there are any.
    fn seconds_per_token(&self) -> Option<f64> {
        let further = self.choice.tokens.saturating_sub(1);
        let decoding = (self.last_token - self.first_token?).as_secs_f64();
        (further > 0).then(|| decoding / further as f64)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.events.close();
        self.app.give_up(self.open, self.began);
    }
}

/// Log-probabilities of a prompt.
async fn score(app: &App, client: Client, prompt: Prompt, top: usize) -> Result<Vec<TokenLogprobs>, ApiError> {
    let (reply, scored) = oneshot::channel();
    app.send(Command::Score(client, prompt, top, reply))?;
    scored.await.map_err(|_| match app.metrics.incomplete_weights() {
        Some(reason) => ApiError::incomplete_weights(&reason),
        None => ApiError::engine_gone(),
    })
}
