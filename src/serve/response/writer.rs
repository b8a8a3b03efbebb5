//! Answers in three forms: chats and completions, whole or in pieces as server-sent events, and tokens, always whole.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::choice::{ChoiceDelta, Finish};
use super::generation::Generation;
use super::logprobs::{ChatLogprobs, Names, PromptLogprobs, TextLogprobs, TextPlace};
use super::sse::{DONE, EventSource, event, stream_events};
use super::wire::{ChatChoice, ChatMessage, CompletionResponse, TextChoice, TokensResponse, Usage};
use crate::engine::request::TokenEvent;
use crate::prompt::StreamDecoder;
use crate::serve::app::seconds_since_1970;
use crate::serve::error::ApiError;
use crate::serve::request::settings::{ResponseKind, ResponseOptions};

/// Answers on their way into a form.
pub struct Writer {
    generation: Generation,
    options: ResponseOptions,
    created: u64,
    names: Names,
}

impl Writer {
    /// For answers that are given out in that options.
    pub fn new(generation: Generation, options: ResponseOptions) -> Writer {
        let names = Names {
            processor: generation.app.prompts.processor.clone(),
            mode: generation.app.defaults.logprobs_mode,
            as_ids: generation.settings.tokens_as_ids,
        };
        Writer { options, created: seconds_since_1970(), names, generation }
    }

    /// All answers, when they have ended.
    pub async fn whole(mut self) -> Result<Response, ApiError> {
        while self.generation.next().await? {}
        let wholes = self.generation.take_deltas();
        let usage = Some(self.generation.usage());
        let wholes = wholes.into_iter();
        if self.options.kind == ResponseKind::Text {
            let choices = wholes.map(|(number, whole)| self.text_choice(number, whole, true)).collect();
            return Ok(Json(self.response("text_completion", choices, usage)).into_response());
        }
        let mut choices: Vec<ChatChoice> = wholes.map(|(number, whole)| self.chat_choice(number, whole)).collect();
        let messages: Vec<Option<ChatMessage>> = choices.iter_mut().map(|choice| choice.delta.take()).collect();
        if self.options.kind == ResponseKind::Tokens {
            let prompt_logprobs = self.prompt_logprobs(0);
            let weights_version = self.generation.weights_version;
            let answer = TokensResponse { request_id: self.options.id, choices, prompt_logprobs, weights_version };
            return Ok(Json(answer).into_response());
        }
        for (choice, message) in choices.iter_mut().zip(messages) {
            choice.message = message.map(|mut message| {
                message.tool_calls.iter_mut().for_each(|call| call.index = None);
                ChatMessage { role: Some("assistant"), ..message }
            });
        }
        let mut answer = self.response("chat.completion", choices, usage);
        answer.prompt_token_ids = self.generation.settings.token_ids.then(|| self.generation.prompts[0].clone());
        answer.prompt_logprobs = self.prompt_logprobs(0);
        Ok(Json(answer).into_response())
    }

    /// Answers in pieces.
    ///
    /// # Errors
    /// What is wrong before the first token comes.
    pub async fn stream(mut self) -> Result<Response, ApiError> {
        // A refusal can still be a status of its own.
        self.generation.next().await?;
        Ok(stream_events(self.opening_events(), self))
    }

    /// Of a chat, each answer's role; of an echoing completion, each prompt.
    fn opening_events(&self) -> String {
        let answers = 0..self.generation.answers();
        if self.options.kind == ResponseKind::Text {
            let echoes = answers.filter(|_| self.generation.settings.echo).map(|number| {
                let (text, places) = self.echoed(number);
                let mut choice = self.text_choice_of(number, text, None, &[]);
                choice.logprobs = self.text_logprobs(places);
                event(&self.response("text_completion", vec![choice], None))
            });
            return echoes.collect();
        }
        let opening = |number| {
            let mut choice = self.chat_choice(number, ChoiceDelta::default());
            choice.logprobs = None;
            choice.token_ids = None;
            choice.delta =
                Some(ChatMessage { role: Some("assistant"), content: Some(String::new()), tool_calls: Vec::new() });
            let mut answer = self.response("chat.completion.chunk", vec![choice], None);
            answer.prompt_token_ids =
                (self.generation.settings.token_ids && number == 0).then(|| self.generation.prompts[0].clone());
            event(&answer)
        };
        answers.map(opening).collect()
    }

    /// The event of what is new of an answer.
    fn delta_event(&self, choice: usize, delta: ChoiceDelta) -> String {
        if self.options.kind == ResponseKind::Chat {
            let choice = self.chat_choice(choice, delta);
            return event(&self.response("chat.completion.chunk", vec![choice], None));
        }
        let choice = self.text_choice(choice, delta, false);
        event(&self.response("text_completion", vec![choice], None))
    }

    /// What ends a stream.
    fn closing_events(&self, error: Option<ApiError>) -> String {
        let last = match error {
            Some(error) => event(&error.body()),
            None if self.options.include_usage => {
                let object = match self.options.kind {
                    ResponseKind::Text => "text_completion",
                    ResponseKind::Chat | ResponseKind::Tokens => "chat.completion.chunk",
                };
                event(&self.response::<()>(object, Vec::new(), Some(self.generation.usage())))
            }
            None => String::new(),
        };
        last + DONE
    }

    fn response<C>(&self, object: &'static str, choices: Vec<C>, usage: Option<Usage>) -> CompletionResponse<C> {
        CompletionResponse {
            id: self.options.id.clone(),
            object,
            created: self.created,
            model: self.options.model.clone(),
            choices,
            usage,
            prompt_token_ids: None,
            prompt_logprobs: None,
            weights_version: self.generation.weights_version,
        }
    }

    fn chat_choice(&self, index: usize, delta: ChoiceDelta) -> ChatChoice {
        let settings = &self.generation.settings;
        let mut tool_calls = delta.tool_calls;
        for call in tool_calls.iter_mut().filter(|call| call.function.name.is_some()) {
            call.id = Some(format!("call_{}_{index}_{}", self.options.id, call.index.unwrap_or_default()));
            call.kind = Some("function");
        }
        let has_content = !delta.text.is_empty() || tool_calls.is_empty();
        let (finish_reason, stop_reason) = reasons(delta.finish);
        ChatChoice {
            index,
            message: None,
            delta: Some(ChatMessage { role: None, content: has_content.then_some(delta.text), tool_calls }),
            finish_reason,
            stop_reason,
            token_ids: settings.token_ids.then(|| ids(&delta.tokens)),
            weights_versions: weights_versions(&delta.tokens),
            logprobs: settings.logprobs.map(|_| ChatLogprobs { tokens: delta.tokens, names: self.names.clone() }),
            trajectory: None,
            end: None,
        }
    }

    /// An answer, or what is new of it. Where the prompt is echoed it comes before the whole, and offsets count from its beginning.
    fn text_choice(&self, number: usize, delta: ChoiceDelta, is_whole: bool) -> TextChoice {
        let (mut text, mut places, mut characters) = (String::new(), Vec::new(), 0);
        if self.generation.settings.echo {
            let (prompt, prompt_places) = self.echoed(number);
            characters = prompt.chars().count();
            if is_whole {
                (text, places) = (prompt, prompt_places);
            }
        }
        text.push_str(&delta.text);
        let mut choice = self.text_choice_of(number, text, delta.finish, &delta.tokens);
        let place = |(event, offset): (TokenEvent, usize)| {
            let (token, offset) = (event.token?, characters + offset);
            let logprob = Some(self.names.mode.of(&token));
            Some(TextPlace { id: token.id, logprob, top_logprobs: event.top_logprobs, offset })
        };
        if self.generation.settings.logprobs.is_some() {
            places.extend(delta.tokens.into_iter().zip(delta.offsets).filter_map(place));
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

    fn text_choice_of(&self, index: usize, text: String, finish: Option<Finish>, tokens: &[TokenEvent]) -> TextChoice {
        let (finish_reason, stop_reason) = reasons(finish);
        let token_ids = self.generation.settings.token_ids.then(|| ids(tokens));
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

impl EventSource for Writer {
    /// What came since the last events goes out together, an answer's tokens in one event: a client that reads slowly, or a network that has
    /// many to write to, has fewer and larger pieces to deal with.
    async fn next_events(&mut self) -> (String, bool) {
        let came = self.generation.next_deltas().await;
        let deltas = self.generation.take_deltas();
        let mut events: String = deltas.into_iter().map(|(choice, delta)| self.delta_event(choice, delta)).collect();
        let goes_on = matches!(came, Ok(true));
        if !goes_on {
            events.push_str(&self.closing_events(came.err()));
        }
        (events, goes_on)
    }
}

fn ids(tokens: &[TokenEvent]) -> Vec<u32> {
    tokens.iter().filter_map(|event| event.token.map(|token| token.id)).collect()
}

/// For each token the version of the weights that it was sampled under, where they are not all the same.
fn weights_versions(tokens: &[TokenEvent]) -> Option<Vec<u64>> {
    let first = tokens.first()?.weights_version;
    let is_mixed = tokens.iter().any(|event| event.weights_version != first);
    is_mixed.then(|| tokens.iter().map(|event| event.weights_version).collect())
}

fn reasons(finish: Option<Finish>) -> (Option<&'static str>, Value) {
    finish.map_or((None, Value::Null), |finish| (Some(finish.reason), finish.stop))
}
