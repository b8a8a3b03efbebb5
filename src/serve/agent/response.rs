//! Answers of a server with an environment: the final text as a chat's message, and beside it the whole trajectory, calls and observations
//! with their images; whole, or in pieces as it goes on.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::session::{AgentEvent, AgentEventKind, AgentJob, ObservedImages};
use crate::rollout::RolloutSettings;
use crate::rollout::environment::{Environment, TokenLimits};
use crate::rollout::tool::ToolImage;
use crate::rollout::trajectory::{End, Trajectory, Turn, TurnKind};
use crate::sandbox::png;
use crate::serve::admission::RequestGuard;
use crate::serve::app::{App, seconds_since_1970};
use crate::serve::blocking::{cost_of, fetch_pictures, run_blocking};
use crate::serve::engine_loop::Command;
use crate::serve::error::ApiError;
use crate::serve::http::body::Room;
use crate::serve::metrics::Active;
use crate::serve::request::ValidRequest;
use crate::serve::request::settings::{ResponseOptions, Settings};
use crate::serve::response::logprobs::finite;
use crate::serve::response::sse::{DONE, EventSource, event, stream_events};
use crate::serve::response::wire::{ChatChoice, ChatMessage, CompletionResponse, TrajectoryTurn, Usage, WidenedImage};

/// Pixels of observed images that the trajectories of a request keep together, in equal parts: as data URLs they are 256 MiB at most.
const PIXELS_MAX: usize = 64 << 20;

const CHUNK: &str = "chat.completion.chunk";

/// Answers a chat by running it in the environment.
pub async fn answer(
    app: Arc<App>,
    environment: &dyn Environment,
    guard: RequestGuard,
    request: ValidRequest,
    room: Room,
) -> Result<Response, ApiError> {
    let ValidRequest { prompt, settings, options, .. } = request;
    guard.weigh(&app, room.bytes, prompt.count(), &settings)?;
    let prompt = fetch_pictures(&app, guard.client, prompt).await?;
    let cost = cost_of(room.bytes, prompt.pictures().len());
    // Pictures are decoded later, by the environment: that is what `cost` counts.
    let task = run_blocking(&app, guard.client, room.bytes, move |app| app.prompts.task(prompt)).await?;
    drop(room);
    let (sender, events) = unbounded_channel();
    let RequestGuard { client, active, waiting, place } = guard;
    let mut place = Some(place);
    let own = environment.limits();
    let total = settings.max_tokens.unwrap_or(own.total);
    let agent_settings = Settings { max_tokens: Some(total), ..settings.clone() };
    app.defaults.check_response_size(&agent_settings, options.kind, &[0])?;
    let mut sampling = settings.sampling.clone();
    sampling.code_temperature.get_or_insert(0.0);
    let rollout = RolloutSettings {
        seed: settings.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
        sampling,
        stop: settings.stops.strings.clone(),
        eos: app.defaults.eos.clone(),
        ..RolloutSettings::default()
    };
    // A few answers at a time, each with its own counter of random numbers: others get in between.
    for first in (0..settings.n).step_by(app.agent_group_max) {
        let job = AgentJob {
            client,
            first,
            cost,
            task: task.clone(),
            settings: RolloutSettings { group_size: app.agent_group_max.min(settings.n - first), ..rollout.clone() },
            limits: TokenLimits { turn: own.turn.min(total), total },
            pixels_kept: PIXELS_MAX / settings.n,
            events: sender.clone(),
            waiting: app.metrics.wait(),
            place: place.take(),
        };
        app.send(Command::RunAgent(Box::new(job)))?;
    }
    drop((sender, waiting));
    let is_stream = options.stream;
    let response = AgentResponse {
        created: seconds_since_1970(),
        began: Instant::now(),
        has_begun: vec![false; settings.n],
        open: settings.n,
        usage: Usage::default(),
        app,
        options,
        settings,
        events,
        _active: active,
    };
    if is_stream { response.stream().await } else { response.whole().await }
}

/// A chat under way.
struct AgentResponse {
    app: Arc<App>,
    settings: Settings,
    options: ResponseOptions,
    created: u64,
    events: UnboundedReceiver<Result<AgentEvent, ApiError>>,
    /// Answers that something came of.
    has_begun: Vec<bool>,
    /// Answers that have not ended.
    open: usize,
    usage: Usage,
    began: Instant,
    _active: Arc<Active>,
}

impl AgentResponse {
    /// What happens next; none when all answers have ended.
    async fn next(&mut self) -> Result<Option<AgentEvent>, ApiError> {
        if self.open == 0 {
            return Ok(None);
        }
        let agent_event = self.events.recv().await.ok_or_else(ApiError::engine_gone)??;
        if !std::mem::replace(&mut self.has_begun[agent_event.choice], true) {
            self.app.metrics.count_first_token(self.began.elapsed().as_secs_f64());
        }
        if let AgentEventKind::Finished(trajectory) = &agent_event.kind {
            self.open -= 1;
            self.count(trajectory);
            if let Some(fault) = trajectory.end.fault() {
                return Err(ApiError::tool_failed(fault));
            }
        }
        Ok(Some(agent_event))
    }

    /// Observed tokens count with the prompt: the model reads them.
    fn count(&mut self, trajectory: &Trajectory) {
        let own = trajectory.own_tokens();
        let is_first = self.usage.total_tokens == 0;
        let prompt = if is_first { trajectory.prompt_tokens } else { 0 };
        self.usage.prompt_tokens += prompt + trajectory.completion_tokens() - own;
        self.usage.completion_tokens += own;
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        self.app.metrics.count_prompt(prompt);
        self.app.metrics.count_tokens(own.saturating_sub(1));
        self.app.metrics.count_finish(finish_reason(&trajectory.end), self.began.elapsed().as_secs_f64(), None);
    }

    /// All answers, when they have ended.
    async fn whole(mut self) -> Result<Response, ApiError> {
        let (mut choices, mut prompt) = (Vec::new(), None);
        while let Some(agent_event) = self.next().await? {
            if let AgentEventKind::Finished(trajectory) = agent_event.kind {
                choices.push(self.whole_choice(agent_event.choice, &trajectory).await?);
                prompt.get_or_insert_with(|| trajectory.token_ids[..trajectory.prompt_tokens].to_vec());
            }
        }
        choices.sort_by_key(|choice: &ChatChoice| choice.index);
        let mut answer = self.response("chat.completion", choices, Some(self.usage));
        answer.prompt_token_ids = prompt.filter(|_| self.settings.token_ids);
        Ok(Json(answer).into_response())
    }

    async fn whole_choice(&self, index: usize, trajectory: &Trajectory) -> Result<ChatChoice, ApiError> {
        let mut content = final_text(trajectory);
        if trajectory.end == End::StopString && !self.settings.include_stop {
            let stops = self.settings.stops.strings.iter();
            let first = stops.filter_map(|stop| content.find(stop.as_str())).min();
            content.truncate(first.unwrap_or(content.len()));
        }
        let message = ChatMessage { role: Some("assistant"), content: Some(content), tool_calls: Vec::new() };
        let after_prompt = || trajectory.token_ids[trajectory.prompt_tokens..].to_vec();
        Ok(ChatChoice {
            message: Some(message),
            token_ids: self.settings.token_ids.then(after_prompt),
            trajectory: Some(self.turns(trajectory).await?),
            ..finished(index, &trajectory.end)
        })
    }

    /// All that followed the prompt.
    async fn turns(&self, trajectory: &Trajectory) -> Result<Vec<TrajectoryTurn>, ApiError> {
        let shown = trajectory.observations().map(|(_, calls)| ObservedImages::of(calls)).collect();
        let mut shown = shown_images(shown).await?.into_iter();
        let turn = |turn: &Turn| TrajectoryTurn {
            kind: turn.kind,
            text: turn.text.clone(),
            token_ids: self.settings.token_ids.then(|| trajectory.token_ids[turn.tokens.clone()].to_vec()),
            logprobs: self.settings.logprobs.map(|_| {
                let sampled = trajectory.sampled[turn.tokens.clone()].iter();
                let mode = self.app.defaults.logprobs_mode;
                sampled.map(|token| token.as_ref().map(|token| finite(mode.of(token)))).collect()
            }),
            images: Vec::new(),
            widened: Vec::new(),
            images_left_out: 0,
        };
        let mut turns: Vec<TrajectoryTurn> = trajectory.turns.iter().map(turn).collect();
        for turn in turns.iter_mut().filter(|turn| turn.kind == TurnKind::Observation) {
            (turn.images, turn.widened, turn.images_left_out) = shown.next().unwrap_or_default();
        }
        Ok(turns)
    }

    /// Answers in pieces.
    ///
    /// # Errors
    /// What is wrong before anything comes.
    async fn stream(mut self) -> Result<Response, ApiError> {
        let mut first = String::new();
        if let Some(agent_event) = self.next().await? {
            first.extend((0..self.settings.n).map(|number| self.chunk(opening(number))));
            first += &self.chunk(piece(agent_event).await?);
        }
        Ok(stream_events(first, self))
    }

    fn chunk(&self, choice: ChatChoice) -> String {
        event(&self.response(CHUNK, vec![choice], None))
    }

    fn response(
        &self,
        object: &'static str,
        choices: Vec<ChatChoice>,
        usage: Option<Usage>,
    ) -> CompletionResponse<ChatChoice> {
        CompletionResponse {
            id: self.options.id.clone(),
            object,
            created: self.created,
            model: self.options.model.clone(),
            choices,
            usage,
            prompt_token_ids: None,
            prompt_logprobs: None,
            weights_version: self.app.metrics.weights_version(),
        }
    }
}

impl Drop for AgentResponse {
    fn drop(&mut self) {
        self.events.close();
        self.app.give_up(self.open, self.began);
    }
}

impl EventSource for AgentResponse {
    async fn next_events(&mut self) -> (String, bool) {
        let came = match self.next().await {
            Ok(Some(agent_event)) => piece(agent_event).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let last = match came {
            Ok(Some(piece)) => return (self.chunk(piece), true),
            Ok(None) if self.options.include_usage => event(&self.response(CHUNK, Vec::new(), Some(self.usage))),
            Ok(None) => String::new(),
            Err(error) => event(&error.body()),
        };
        (last + DONE, false)
    }
}

/// The beginning of an answer in a stream.
fn opening(index: usize) -> ChatChoice {
    let delta = ChatMessage { role: Some("assistant"), content: Some(String::new()), tool_calls: Vec::new() };
    ChatChoice { index, delta: Some(delta), ..ChatChoice::default() }
}

/// What happened, as a piece of a stream: what the model writes is content, what it reads is a turn of the trajectory.
async fn piece(agent_event: AgentEvent) -> Result<ChatChoice, ApiError> {
    let content = |text: String| Some(ChatMessage { content: Some(text), ..ChatMessage::default() });
    let index = agent_event.choice;
    Ok(match agent_event.kind {
        AgentEventKind::Text(text) => ChatChoice { index, delta: content(text), ..ChatChoice::default() },
        AgentEventKind::Observed(text, shown) => {
            let (images, widened, images_left_out) = shown_images(vec![shown]).await?.pop().unwrap_or_default();
            let kind = TurnKind::Observation;
            let turn = TrajectoryTurn { kind, text, images, widened, images_left_out, token_ids: None, logprobs: None };
            ChatChoice { index, delta: content(String::new()), trajectory: Some(vec![turn]), ..ChatChoice::default() }
        }
        AgentEventKind::Finished(trajectory) => {
            ChatChoice { delta: content(String::new()), ..finished(index, &trajectory.end) }
        }
    })
}

/// A choice that says how it ended.
fn finished(index: usize, end: &End) -> ChatChoice {
    ChatChoice { index, finish_reason: Some(finish_reason(end)), end: Some(end.name()), ..ChatChoice::default() }
}

fn finish_reason(end: &End) -> &'static str {
    if end.is_truncated() { "length" } else { "stop" }
}

/// What the model wrote after the last observation.
fn final_text(trajectory: &Trajectory) -> String {
    let turns = &trajectory.turns;
    let from = turns.iter().rposition(|turn| turn.kind == TurnKind::Observation).map_or(0, |last| last + 1);
    turns[from..].iter().map(|turn| turn.text.as_str()).collect()
}

/// The images of each observation as data URLs, which of them are widened, and how many are left out. Encoding takes a thread of its own:
/// images are large.
async fn shown_images(
    observations: Vec<ObservedImages>,
) -> Result<Vec<(Vec<String>, Vec<WidenedImage>, usize)>, ApiError> {
    let encode = move || {
        let told = |shown: &ObservedImages| Ok((data_urls(&shown.images)?, widened(&shown.images), shown.left_out));
        observations.iter().map(told).collect()
    };
    tokio::task::spawn_blocking(encode).await.map_err(ApiError::failed)?
}

fn data_urls(images: &[ToolImage]) -> Result<Vec<String>, ApiError> {
    let url = |image: &ToolImage| {
        let bytes = png(&image.pixels).map_err(ApiError::failed)?;
        Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes)))
    };
    images.iter().map(url).collect()
}

fn widened(images: &[ToolImage]) -> Vec<WidenedImage> {
    let boxes = |(image, shown): (usize, &ToolImage)| Some(WidenedImage { image, boxes: shown.widened.clone()? });
    images.iter().enumerate().filter_map(boxes).collect()
}
