//! Answers in OpenAI's two forms, chat and completion, whole or in pieces as server-sent events.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, Stream, stream};
use serde::Serialize;
use serde_json::Value;

use super::choice::{Finish, finite};
use super::desk::Token;
use super::error::ApiError;
use super::generation::{Drawn, Generation, News};
use super::openai::{
    Answer, ChatChoice, ChatLogprob, ChatLogprobs, ChatMessage, FunctionCall, PromptLogprob, PromptLogprobs,
    TextChoice, TextLogprobs, TokenAnswer, ToolCall, Usage,
};
use super::prompt_logprobs::{Ranked, TokenLogprobs};
use super::seconds_since_1970;
use super::tool_calls::{Piece, ToolCallReader};

/// What answers look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// Messages.
    #[default]
    Chat,
    /// Text.
    Text,
    /// Tokens only, never in pieces.
    Tokens,
}

/// Which form, and what a stream brings besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// What answers look like.
    pub kind: Kind,
    /// Calls are looked for.
    pub reads_tool_calls: bool,
    /// The text begins with the prompt.
    pub echo: bool,
    /// A stream ends with the counts of tokens.
    pub include_usage: bool,
}

/// Answers on their way into a form.
pub struct Writer {
    generation: Generation,
    form: Form,
    id: String,
    model: String,
    created: u64,
    /// Version of the weights that the last token was drawn under.
    version: u64,
    readers: Vec<ToolCallReader>,
    /// Characters of tokens written so far, of each answer.
    offsets: Vec<usize>,
}

/// An answer, or what is new of it.
#[derive(Default)]
struct Part {
    text: String,
    calls: Vec<ToolCall>,
    tokens: Vec<Token>,
    finish: Option<Finish>,
}

impl Part {
    /// What comes behind it.
    fn extend(&mut self, next: Part) {
        self.text.push_str(&next.text);
        self.calls.extend(next.calls);
        self.tokens.extend(next.tokens);
        self.finish = next.finish;
    }
}

impl Writer {
    /// For a request to the model of that name.
    pub fn new(generation: Generation, form: Form, id: String, model: String) -> Writer {
        let answers = generation.answers();
        Writer {
            form,
            id,
            model,
            created: seconds_since_1970(),
            readers: (0..answers).map(|_| ToolCallReader::default()).collect(),
            offsets: vec![0; answers],
            version: generation.app.gauges.weights_version(),
            generation,
        }
    }

    /// All answers, when they have ended.
    pub async fn whole(mut self) -> Result<Response, ApiError> {
        let mut wholes: Vec<Part> = (0..self.generation.answers()).map(|_| Part::default()).collect();
        while let Some(news) = self.generation.next().await? {
            let drawn = match news {
                News::Drawn(drawn) => drawn,
                News::Restarted(choices) => {
                    for choice in choices {
                        wholes[choice] = Part::default();
                        self.readers[choice] = ToolCallReader::default();
                    }
                    continue;
                }
            };
            let choice = drawn.choice;
            let part = self.part(drawn);
            wholes[choice].extend(part);
        }
        let usage = Some(self.generation.usage());
        let wholes = wholes.into_iter().enumerate();
        if self.form.kind == Kind::Text {
            let choices = wholes.map(|(number, whole)| self.text_choice(number, whole, true)).collect();
            return Ok(Json(self.answer("text_completion", choices, usage)).into_response());
        }
        let mut choices: Vec<ChatChoice> = wholes.map(|(number, whole)| self.chat_choice(number, whole)).collect();
        let messages: Vec<Option<ChatMessage>> = choices.iter_mut().map(|choice| choice.delta.take()).collect();
        if self.form.kind == Kind::Tokens {
            let prompt_logprobs = self.prompt_logprobs(0);
            let answer = TokenAnswer { request_id: self.id, choices, prompt_logprobs, weights_version: self.version };
            return Ok(Json(answer).into_response());
        }
        for (choice, message) in choices.iter_mut().zip(messages) {
            choice.message = message.map(|message| ChatMessage { role: Some("assistant"), ..message });
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
        let state = Pieces { ready: self.opening_events(), writer: Some(self) };
        let events = stream::unfold(state, |mut state| async move {
            let event = state.next().await?;
            Some((Ok::<_, Infallible>(event), state))
        });
        Ok(events_response(events))
    }

    /// Of a chat, each answer's role; of an echoing completion, each prompt.
    fn opening_events(&self) -> VecDeque<String> {
        let answers = 0..self.generation.answers();
        if self.form.kind == Kind::Text {
            let echoes = answers.filter(|_| self.form.echo).map(|number| {
                let choice = self.text_choice_of(number, self.prompt_text(number), None, Vec::new());
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
        if self.form.kind == Kind::Chat {
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
                    Kind::Text => "text_completion",
                    Kind::Chat | Kind::Tokens => "chat.completion.chunk",
                };
                event(&self.answer::<()>(object, Vec::new(), Some(self.generation.usage())))
            }
            None => String::new(),
        };
        last + "data: [DONE]\n\n"
    }

    /// Takes calls out of the text.
    fn part(&mut self, drawn: Drawn) -> Part {
        self.version = drawn.token.as_ref().map_or(self.version, |token| token.version);
        let mut part = Part { tokens: drawn.token.into_iter().collect(), finish: drawn.finish, ..Part::default() };
        if !self.form.reads_tool_calls {
            part.text = drawn.text;
        } else {
            let reader = &mut self.readers[drawn.choice];
            for piece in reader.read(&drawn.text, part.finish.is_some()) {
                match piece {
                    Piece::Text(text) => part.text.push_str(&text),
                    Piece::Call(number, name, arguments) => part.calls.push(ToolCall {
                        index: Some(number),
                        id: format!("call_{}_{}_{number}", self.id, drawn.choice),
                        kind: "function",
                        function: FunctionCall { name, arguments },
                    }),
                }
            }
            if let Some(finish) = &mut part.finish
                && reader.has_calls()
                && finish.reason == "stop"
            {
                finish.reason = "tool_calls";
            }
        }
        if let Some(finish) = &part.finish {
            self.generation.finished(drawn.choice, finish.reason);
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
        let entry = |id: u32, logprob: f32, top_logprobs: Option<Vec<ChatLogprob>>| ChatLogprob {
            token: self.token_text(id),
            logprob: finite(logprob),
            bytes: self.tokenizer().token_bytes(id).to_vec(),
            top_logprobs,
        };
        let logprob = |token: &Token| {
            let top = token.likeliest.iter().map(|&(id, logprob)| entry(id, logprob, None)).collect();
            entry(token.drawn.id, self.logprob(token), Some(top))
        };
        let has_content = !part.text.is_empty() || part.calls.is_empty();
        let (finish_reason, stop_reason) = reasons(part.finish);
        ChatChoice {
            index,
            message: None,
            logprobs: settings.logprobs.map(|_| ChatLogprobs { content: part.tokens.iter().map(logprob).collect() }),
            delta: Some(ChatMessage { role: None, content: has_content.then_some(part.text), tool_calls: part.calls }),
            finish_reason,
            stop_reason,
            token_ids: settings.token_ids.then(|| part.tokens.iter().map(|token| token.drawn.id).collect()),
            weights_versions: weights_versions(&part.tokens),
            trajectory: None,
            end: None,
        }
    }

    fn text_choice(&mut self, number: usize, part: Part, is_whole: bool) -> TextChoice {
        let mut logprobs = self.generation.settings.logprobs.map(|_| TextLogprobs::default());
        let echoes = self.form.echo && is_whole;
        let mut offset = self.offsets[number];
        if let Some(logprobs) = &mut logprobs {
            if echoes {
                self.add_prompt_logprobs(number, logprobs, &mut offset);
            }
            for token in &part.tokens {
                let own = (token.drawn.id, self.logprob(token));
                let top = token.likeliest.iter().copied().chain([own]);
                let top = top.map(|(id, logprob)| (self.token_text(id), finite(logprob))).collect();
                self.add_logprob(logprobs, own.0, Some(own.1), Some(top), &mut offset);
            }
        }
        self.offsets[number] = offset;
        let text = if echoes { self.prompt_text(number) + &part.text } else { part.text };
        let mut choice = self.text_choice_of(number, text, part.finish, part.tokens);
        choice.logprobs = logprobs;
        if is_whole {
            let prompt = self.generation.prompt_of(number);
            choice.prompt_token_ids =
                self.generation.settings.token_ids.then(|| self.generation.prompts[prompt].clone());
            choice.prompt_logprobs = self.prompt_logprobs(prompt);
        }
        choice
    }

    fn text_choice_of(&self, index: usize, text: String, finish: Option<Finish>, tokens: Vec<Token>) -> TextChoice {
        let (finish_reason, stop_reason) = reasons(finish);
        let token_ids = self.generation.settings.token_ids.then(|| tokens.iter().map(|token| token.drawn.id).collect());
        TextChoice {
            weights_versions: weights_versions(&tokens),
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

    /// An echoed prompt's tokens; the first has nothing to be predicted from.
    fn add_prompt_logprobs(&self, number: usize, logprobs: &mut TextLogprobs, offset: &mut usize) {
        let prompt = self.generation.prompt_of(number);
        let scored = self.generation.prompt_logprobs.get(prompt).map(Vec::as_slice).unwrap_or_default();
        let scored = std::iter::once(None).chain(scored.iter().map(Some));
        for (&id, place) in self.generation.prompts[prompt].iter().zip(scored) {
            let own = place.map(|place| finite(place.tokens[0].logprob));
            let entry = |place: &TokenLogprobs| {
                place.tokens.iter().map(|token| (self.token_text(token.id), finite(token.logprob))).collect()
            };
            self.add_logprob(logprobs, id, own, place.map(entry), offset);
        }
    }

    fn add_logprob(
        &self,
        logprobs: &mut TextLogprobs,
        id: u32,
        logprob: Option<f32>,
        top: Option<BTreeMap<String, f32>>,
        offset: &mut usize,
    ) {
        logprobs.tokens.push(self.token_text(id));
        logprobs.token_logprobs.push(logprob);
        logprobs.top_logprobs.push(top);
        logprobs.text_offset.push(*offset);
        *offset += self.tokenizer().decode(&[id], self.generation.settings.skip_special).chars().count();
    }

    /// For each of a prompt's tokens but the first its own log-probability and the likeliest ones', by id.
    fn prompt_logprobs(&self, prompt: usize) -> Option<PromptLogprobs> {
        let entry = |token: &Ranked| {
            let decoded_token = self.tokenizer().decode(&[token.id], false);
            (token.id.to_string(), PromptLogprob { logprob: finite(token.logprob), rank: token.rank, decoded_token })
        };
        let place = |place: &TokenLogprobs| Some(place.tokens.iter().map(entry).collect());
        let places = self.generation.prompt_logprobs.get(prompt)?.iter().map(place);
        Some(std::iter::once(None).chain(places).collect())
    }

    fn prompt_text(&self, number: usize) -> String {
        self.tokenizer().decode(&self.generation.prompts[self.generation.prompt_of(number)], false)
    }

    fn tokenizer(&self) -> &crate::prompt::Tokenizer {
        self.generation.app.prompts.processor.tokenizer()
    }

    fn logprob(&self, token: &Token) -> f32 {
        self.generation.app.defaults.logprobs_mode.of(&token.drawn)
    }

    fn token_text(&self, id: u32) -> String {
        match self.generation.settings.tokens_as_ids {
            true => format!("token_id:{id}"),
            false => self.tokenizer().decode(&[id], false),
        }
    }
}

/// A stream of events.
struct Pieces {
    ready: VecDeque<String>,
    /// None at the end.
    writer: Option<Writer>,
}

impl Pieces {
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
                Ok(Some(News::Drawn(drawn))) => {
                    let choice = drawn.choice;
                    let part = writer.part(drawn);
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

/// For each token the version of the weights that it was drawn under, where they are not all the same.
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
