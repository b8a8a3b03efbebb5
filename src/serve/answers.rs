//! Answers in three forms: chats and completions, whole or in pieces as server-sent events, and tokens, always whole.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, Stream, stream};
use serde::Serialize;
use serde_json::Value;

use super::answer_logprobs::{ChatLogprobs, Names, PromptLogprobs, TextLogprobs, TextPlace};
use super::app::seconds_since_1970;
use super::choice::Finish;
use super::constraints::ToolChoice;
use super::engine_loop::Token;
use super::error::ApiError;
use super::generation::{Generation, News, SampledText};
use super::openai::{
    Answer, ChatChoice, ChatMessage, FunctionCall, Request, ResponseKind, TextChoice, TokenAnswer, ToolCall, Usage,
};
use super::tool_calls::{Piece, Rest, ToolCallReader};
use crate::prompt::StreamDecoder;

/// What becomes of calls in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ToolCalls {
    /// There are no tools: the text is given out as it is.
    #[default]
    Ignored,
    /// Tools are shown, but none may be called: marks of calls are left out of the text.
    Unmarked,
    /// They are given out as calls.
    Read,
}

impl ToolCalls {
    /// What a request asks.
    pub fn of(request: &Request, choice: &ToolChoice) -> ToolCalls {
        match choice {
            ToolChoice::None if request.tools.as_ref().is_none_or(Vec::is_empty) => ToolCalls::Ignored,
            ToolChoice::None => ToolCalls::Unmarked,
            ToolChoice::Auto | ToolChoice::Forced(..) => ToolCalls::Read,
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseShape {
    /// Chat, completion or tokens.
    pub kind: ResponseKind,
    /// What becomes of calls in the text.
    pub tool_calls: ToolCalls,
    /// The text begins with the prompt.
    pub echo: bool,
    /// A stream ends with the counts of tokens.
    pub include_usage: bool,
}

/// Answers on their way into a form.
pub struct Writer {
    generation: Generation,
    form: ResponseShape,
    id: String,
    model: String,
    created: u64,
    /// Version of the weights that the last token was sampled under.
    version: u64,
    readers: Vec<ToolCallReader>,
    names: Names,
}

/// An answer, or what is new of it.
#[derive(Default)]
struct Part {
    text: String,
    calls: Vec<ToolCall>,
    /// Where something is told of them.
    tokens: Vec<Token>,
    /// Of a completion with log-probabilities: characters of the text before each token.
    offsets: Vec<usize>,
    finish: Option<Finish>,
}

impl Part {
    /// Appends the next part.
    fn extend(&mut self, next: Part) {
        self.text.push_str(&next.text);
        for call in next.calls {
            match self.calls.last_mut() {
                Some(last) if last.index == call.index => last.function.arguments.push_str(&call.function.arguments),
                _ => self.calls.push(call),
            }
        }
        self.tokens.extend(next.tokens);
        self.offsets.extend(next.offsets);
        self.finish = next.finish;
    }
}

impl Writer {
    /// For a request to the model of that name.
    pub fn new(generation: Generation, form: ResponseShape, id: String, model: String) -> Writer {
        let answers = generation.answers();
        Writer {
            form,
            id,
            model,
            created: seconds_since_1970(),
            readers: (0..answers).map(|_| reader(form)).collect(),
            names: Names {
                processor: generation.app.prompts.processor.clone(),
                mode: generation.app.defaults.logprobs_mode,
                as_ids: generation.settings.tokens_as_ids,
            },
            version: generation.app.metrics.weights_version(),
            generation,
        }
    }

    /// All answers, when they have ended.
    pub async fn whole(mut self) -> Result<Response, ApiError> {
        let mut wholes: Vec<Part> = (0..self.generation.answers()).map(|_| Part::default()).collect();
        while let Some(news) = self.generation.next().await? {
            let sampled = match news {
                News::Sampled(sampled) => sampled,
                News::Restarted(choices) => {
                    for choice in choices {
                        wholes[choice] = Part::default();
                        self.readers[choice] = reader(self.form);
                    }
                    continue;
                }
            };
            let choice = sampled.choice;
            let part = self.part(sampled);
            wholes[choice].extend(part);
        }
        let usage = Some(self.generation.usage());
        let wholes = wholes.into_iter().enumerate();
        if self.form.kind == ResponseKind::Text {
            let choices = wholes.map(|(number, whole)| self.text_choice(number, whole, true)).collect();
            return Ok(Json(self.answer("text_completion", choices, usage)).into_response());
        }
        let mut choices: Vec<ChatChoice> = wholes.map(|(number, whole)| self.chat_choice(number, whole)).collect();
        let messages: Vec<Option<ChatMessage>> = choices.iter_mut().map(|choice| choice.delta.take()).collect();
        if self.form.kind == ResponseKind::Tokens {
            let prompt_logprobs = self.prompt_logprobs(0);
            let answer = TokenAnswer { request_id: self.id, choices, prompt_logprobs, weights_version: self.version };
            return Ok(Json(answer).into_response());
        }
        for (choice, message) in choices.iter_mut().zip(messages) {
            choice.message = message.map(|mut message| {
                message.tool_calls.iter_mut().for_each(|call| call.index = None);
                ChatMessage { role: Some("assistant"), ..message }
            });
        }
        let mut answer = self.answer("chat.completion", choices, usage);
        answer.prompt_token_ids = self.generation.settings.token_ids.then(|| self.generation.prompts[0].clone());
        answer.prompt_logprobs = self.prompt_logprobs(0);
        Ok(Json(answer).into_response())
    }

    /// Answers in pieces.
    ///
    /// # Errors
    /// What is wrong before the first token comes.
    pub async fn stream(mut self) -> Result<Response, ApiError> {
        self.generation.wait().await?;
        let state = SseStream { ready: self.opening_events(), writer: Some(self) };
        let events = stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((Ok::<_, Infallible>(event), state))
        });
        Ok(events_response(events))
    }

    /// Of a chat, each answer's role; of an echoing completion, each prompt.
    fn opening_events(&self) -> VecDeque<String> {
        let answers = 0..self.generation.answers();
        if self.form.kind == ResponseKind::Text {
            let echoes = answers.filter(|_| self.form.echo).map(|number| {
                let (text, places) = self.echoed(number);
                let mut choice = self.text_choice_of(number, text, None, &[]);
                choice.logprobs = self.text_logprobs(places);
                event(&self.answer("text_completion", vec![choice], None))
            });
            return echoes.collect();
        }
        let opening = |number| {
            let mut choice = self.chat_choice(number, Part::default());
            choice.logprobs = None;
            choice.token_ids = None;
            choice.delta =
                Some(ChatMessage { role: Some("assistant"), content: Some(String::new()), tool_calls: Vec::new() });
            let mut answer = self.answer("chat.completion.chunk", vec![choice], None);
            answer.prompt_token_ids =
                (self.generation.settings.token_ids && number == 0).then(|| self.generation.prompts[0].clone());
            event(&answer)
        };
        answers.map(opening).collect()
    }

    /// The event of what is new of an answer.
    fn part_event(&mut self, choice: usize, part: Part) -> String {
        if self.form.kind == ResponseKind::Chat {
            let choice = self.chat_choice(choice, part);
            return event(&self.answer("chat.completion.chunk", vec![choice], None));
        }
        let choice = self.text_choice(choice, part, false);
        event(&self.answer("text_completion", vec![choice], None))
    }

    /// What ends a stream.
    fn closing_events(&self, error: Option<ApiError>) -> String {
        let last = match error {
            Some(error) => event(&error.body()),
            None if self.form.include_usage => {
                let object = match self.form.kind {
                    ResponseKind::Text => "text_completion",
                    ResponseKind::Chat | ResponseKind::Tokens => "chat.completion.chunk",
                };
                event(&self.answer::<()>(object, Vec::new(), Some(self.generation.usage())))
            }
            None => String::new(),
        };
        last + "data: [DONE]\n\n"
    }

    /// Takes calls out of the text.
    fn part(&mut self, sampled: SampledText) -> Part {
        self.version = sampled.token.as_ref().map_or(self.version, |token| token.version);
        let has_offsets = self.form.kind == ResponseKind::Text && self.generation.settings.logprobs.is_some();
        let offsets = sampled.token.iter().filter(|_| has_offsets).map(|_| sampled.offset).collect();
        let mut part =
            Part { tokens: sampled.token.into_iter().collect(), offsets, finish: sampled.finish, ..Part::default() };
        if self.form.tool_calls == ToolCalls::Ignored {
            part.text = sampled.text;
        } else {
            let reader = &mut self.readers[sampled.choice];
            let rest = match &part.finish {
                None => Rest::Open,
                Some(finish) if finish.reason == "length" => Rest::Cut,
                Some(_) => Rest::Said,
            };
            for piece in reader.read(&sampled.text, rest) {
                let call = match piece {
                    Piece::Text(text) => {
                        part.text.push_str(&text);
                        continue;
                    }
                    Piece::Begin(number, name) => ToolCall {
                        index: Some(number),
                        id: Some(format!("call_{}_{}_{number}", self.id, sampled.choice)),
                        kind: Some("function"),
                        function: FunctionCall { name: Some(name), arguments: String::new() },
                    },
                    Piece::Arguments(number, arguments) => ToolCall {
                        index: Some(number),
                        id: None,
                        kind: None,
                        function: FunctionCall { name: None, arguments },
                    },
                };
                part.extend(Part { calls: vec![call], finish: part.finish.clone(), ..Part::default() });
            }
            if let Some(finish) = &mut part.finish
                && reader.has_calls()
                && finish.reason == "stop"
            {
                finish.reason = "tool_calls";
            }
        }
        if let Some(finish) = &part.finish {
            self.generation.finished(sampled.choice, finish.reason);
        }
        part
    }

    fn answer<C>(&self, object: &'static str, choices: Vec<C>, usage: Option<Usage>) -> Answer<C> {
        Answer {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
            prompt_token_ids: None,
            prompt_logprobs: None,
            weights_version: self.version,
        }
    }

    fn chat_choice(&self, index: usize, part: Part) -> ChatChoice {
        let settings = &self.generation.settings;
        let has_content = !part.text.is_empty() || part.calls.is_empty();
        let (finish_reason, stop_reason) = reasons(part.finish);
        ChatChoice {
            index,
            message: None,
            delta: Some(ChatMessage { role: None, content: has_content.then_some(part.text), tool_calls: part.calls }),
            finish_reason,
            stop_reason,
            token_ids: settings.token_ids.then(|| part.tokens.iter().map(|token| token.sampled.id).collect()),
            weights_versions: weights_versions(&part.tokens),
            logprobs: settings.logprobs.map(|_| ChatLogprobs { tokens: part.tokens, names: self.names.clone() }),
            trajectory: None,
            end: None,
        }
    }

    /// An answer, or what is new of it. Where the prompt is echoed it comes before the whole, and offsets count from its beginning.
    fn text_choice(&self, number: usize, part: Part, is_whole: bool) -> TextChoice {
        let (mut text, mut places, mut characters) = (String::new(), Vec::new(), 0);
        if self.form.echo {
            let (prompt, prompt_places) = self.echoed(number);
            characters = prompt.chars().count();
            if is_whole {
                (text, places) = (prompt, prompt_places);
            }
        }
        text.push_str(&part.text);
        let mut choice = self.text_choice_of(number, text, part.finish, &part.tokens);
        let place = |(token, offset): (Token, usize)| TextPlace {
            id: token.sampled.id,
            logprob: Some(self.names.logprob(&token)),
            top_logprobs: token.top_logprobs,
            offset: characters + offset,
        };
        if self.generation.settings.logprobs.is_some() {
            places.extend(part.tokens.into_iter().zip(part.offsets).map(place));
            choice.logprobs = self.text_logprobs(places);
        }
        if is_whole {
            let prompt = self.generation.prompt_of(number);
            choice.prompt_token_ids =
                self.generation.settings.token_ids.then(|| self.generation.prompts[prompt].clone());
            choice.prompt_logprobs = self.prompt_logprobs(prompt);
        }
        choice
    }

    fn text_choice_of(&self, index: usize, text: String, finish: Option<Finish>, tokens: &[Token]) -> TextChoice {
        let (finish_reason, stop_reason) = reasons(finish);
        let token_ids =
            self.generation.settings.token_ids.then(|| tokens.iter().map(|token| token.sampled.id).collect());
        TextChoice {
            weights_versions: weights_versions(tokens),
            index,
            text,
            logprobs: None,
            finish_reason,
            stop_reason,
            token_ids,
            prompt_token_ids: None,
            prompt_logprobs: None,
        }
    }

    fn text_logprobs(&self, places: Vec<TextPlace>) -> Option<TextLogprobs> {
        self.generation.settings.logprobs.map(|_| TextLogprobs { places, names: self.names.clone() })
    }

    /// The text of an echoed prompt and, where log-probabilities are wanted, its tokens; the first has nothing to be predicted from.
    fn echoed(&self, number: usize) -> (String, Vec<TextPlace>) {
        let prompt = self.generation.prompt_of(number);
        let ids = &self.generation.prompts[prompt];
        let (mut decoder, mut text, mut places, mut characters) =
            (StreamDecoder::default(), String::new(), Vec::new(), 0);
        let scored = self.generation.prompt_logprobs.get(prompt);
        for (place, &id) in ids.iter().enumerate() {
            let own = place.checked_sub(1).and_then(|before| scored?.get(before)).map(|place| &place.tokens);
            if self.generation.settings.logprobs.is_some() {
                places.push(TextPlace {
                    id,
                    logprob: own.map(|tokens| tokens[0].logprob),
                    top_logprobs: own
                        .map_or_else(Vec::new, |tokens| tokens.iter().map(|token| (token.id, token.logprob)).collect()),
                    offset: characters,
                });
            }
            let added = decoder.push(self.tokenizer().token_bytes(id));
            characters += added.chars().count();
            text.push_str(&added);
        }
        text.push_str(&decoder.finish());
        (text, places)
    }

    /// For each of a prompt's tokens but the first its own log-probability and the likeliest ones', by id.
    fn prompt_logprobs(&self, prompt: usize) -> Option<PromptLogprobs> {
        let places = self.generation.prompt_logprobs.get(prompt)?.clone();
        Some(PromptLogprobs { places, names: self.names.clone() })
    }

    fn tokenizer(&self) -> &crate::prompt::Tokenizer {
        self.generation.app.prompts.processor.tokenizer()
    }
}

/// A stream of events.
struct SseStream {
    ready: VecDeque<String>,
    /// None at the end.
    writer: Option<Writer>,
}

impl SseStream {
    /// The next events. What came since the last ones goes out together, an answer's tokens in one event: a client that reads slowly, or a
    /// network that has many to write to, has fewer and larger pieces to deal with.
    async fn next(&mut self) -> Option<String> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let writer = self.writer.as_mut()?;
        let (mut events, mut parts) = (String::new(), BTreeMap::<usize, Part>::new());
        let mut came = writer.generation.next().await;
        let end = loop {
            match came {
                Ok(Some(News::Sampled(sampled))) => {
                    let choice = sampled.choice;
                    let part = writer.part(sampled);
                    parts.entry(choice).or_default().extend(part);
                }
                Ok(Some(News::Restarted(_))) => break Some(Some(ApiError::failed("a stream cannot start over"))),
                Ok(None) => break Some(None),
                Err(error) => break Some(Some(error)),
            }
            match writer.generation.next().now_or_never() {
                Some(more) => came = more,
                None => break None,
            }
        };
        for (choice, part) in parts {
            events.push_str(&writer.part_event(choice, part));
        }
        if let Some(error) = end {
            events.push_str(&writer.closing_events(error));
            self.writer = None;
        }
        Some(events)
    }
}

fn reader(form: ResponseShape) -> ToolCallReader {
    match form.tool_calls {
        ToolCalls::Unmarked => ToolCallReader::without_calls(),
        ToolCalls::Ignored | ToolCalls::Read => ToolCallReader::default(),
    }
}

/// For each token the version of the weights that it was sampled under, where they are not all the same.
fn weights_versions(tokens: &[Token]) -> Option<Vec<u64>> {
    let first = tokens.first()?.version;
    let is_mixed = tokens.iter().any(|token| token.version != first);
    is_mixed.then(|| tokens.iter().map(|token| token.version).collect())
}

fn reasons(finish: Option<Finish>) -> (Option<&'static str>, Value) {
    finish.map_or((None, Value::Null), |finish| (Some(finish.reason), finish.stop))
}

/// Server-sent events as a response.
pub fn events_response(events: impl Stream<Item = Result<String, Infallible>> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A server-sent event.
pub fn event(content: &impl Serialize) -> String {
    format!("data: {}\n\n", serde_json::to_string(content).expect("wire types are JSON"))
}
