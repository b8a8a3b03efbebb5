//! A model behind OpenAI-compatible endpoints: vLLM, SGLang, llama.cpp, `thyme-engine serve`, or a provider.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::debug_span;

use super::counter::Outcome;
use super::reply_cache::{ReplyCache, content_of};
use super::servers::{Servers, Turn, WAIT_MAX};
use super::settings::{CacheUse, JudgeSettings};
use crate::network::{HttpClient, PostError};
use crate::rollout::judge::{JudgeError, Question, shortened};

/// The largest reply that is read.
const REPLY_BYTES_MAX: u64 = 4 << 20;
/// Statuses below 500 that may pass: the request came too late, or there were too many.
const PASSING: [u16; 2] = [408, 429];
/// The status that says that there were too many requests.
const TOO_MANY: u16 = 429;
/// The least status that blames the server.
const SERVER_ERROR: u16 = 500;

/// The endpoint, which may be asked by many threads.
pub struct Endpoint {
    client: HttpClient,
    /// One a server.
    urls: Vec<String>,
    key: Option<String>,
    settings: JudgeSettings,
    permits: Permits,
    servers: Servers,
    cache: ReplyCache,
}

/// Why a try gave no reply.
enum Failure {
    /// The server or the way to it failed; how long it asks to be left alone.
    Server(String, Option<Duration>),
    /// There were too many requests; how long the server asks to be left alone.
    Busy(String, Option<Duration>),
    /// The model said something of another form.
    Form(String),
    /// The server refused the request itself.
    Refused(String),
}

impl Endpoint {
    /// An endpoint that has not been asked yet.
    ///
    /// # Errors
    /// When a key of its settings cannot be, or the environment has no such key.
    pub fn new(settings: &JudgeSettings) -> Result<Self, String> {
        settings.check()?;
        if settings.model_path.is_some() {
            return Err("model_path is of `[reward.judge]` only; give base_url and model".to_owned());
        }
        let urls = settings.base_url.all().iter();
        let urls: Vec<String> = urls.map(|url| format!("{}/chat/completions", url.trim_end_matches('/'))).collect();
        Ok(Self {
            client: HttpClient::new(Duration::from_secs_f64(settings.timeout_seconds)),
            key: settings.key()?,
            permits: Permits { free: Mutex::new(settings.parallel_requests), returned: Condvar::new() },
            servers: Servers::new(urls.len(), Duration::from_secs_f64(settings.retry_seconds)),
            cache: ReplyCache::default(),
            settings: settings.clone(),
            urls,
        })
    }

    /// Questions that may be under way at a time.
    pub fn parallel_requests(&self) -> usize {
        self.settings.parallel_requests
    }

    /// The reply to messages in the form of OpenAI's API, which may have images; temperature, retries and the form of the reply are those of
    /// `question`. Waits for it.
    pub fn answer(&self, messages: &Value, question: &Question<'_>) -> Outcome {
        let temperature = self.settings.temperature.unwrap_or(question.temperature);
        let mut body = json!({
            "model": self.settings.model,
            "messages": messages,
            "temperature": temperature,
            "max_tokens": self.settings.max_tokens,
        });
        // Servers that know no such field refuse it.
        if !self.settings.chat_template_kwargs.is_empty() {
            body["chat_template_kwargs"] = self.settings.chat_template_kwargs.clone().into();
        }
        let is_kept = match self.settings.cache {
            CacheUse::Greedy => temperature == 0.0,
            CacheUse::Always => true,
            CacheUse::Never => false,
        };
        let (mut retries, mut seconds) = (0, None);
        let mut ask = || {
            let _permit = self.permits.acquire();
            let _span = debug_span!("judge").entered();
            let began = Instant::now();
            let reply = self.try_until_answered(&body, question, &mut retries);
            seconds = Some(began.elapsed().as_secs_f64());
            reply
        };
        let reply = match is_kept {
            true => self.cache.get_or_ask(content_of(&body), ask),
            false => ask(),
        };
        Outcome { reply, retries, seconds }
    }

    /// The same for a question of temperature 0 whose reply may have any form.
    ///
    /// # Errors
    /// When there is no reply.
    pub fn ask(&self, messages: &Value) -> Result<String, JudgeError> {
        self.answer(messages, &Question::new("", "")).reply
    }

    /// Tries until there is a reply, or no more tries are left. A server beyond the first that is found to fail costs no try.
    fn try_until_answered(
        &self,
        body: &Value,
        question: &Question<'_>,
        retries: &mut usize,
    ) -> Result<String, JudgeError> {
        let most = self.settings.max_retries.unwrap_or(question.max_retries) + self.urls.len() - 1;
        loop {
            let (server, is_trial) = self.turn()?;
            let failure = match self.ask_server(server, body, question) {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let is_last = *retries >= most || (is_trial && matches!(failure, Failure::Server(..)));
            let backoff = self.servers.backoff(*retries as u32);
            let rest = |asked: Option<Duration>| asked.map_or(backoff, |asked| asked.min(WAIT_MAX));
            let reason = match failure {
                Failure::Server(reason, asked) => {
                    let has_none = self.servers.note_failure(server, rest(asked));
                    if is_last && (has_none || is_trial) {
                        self.servers.note_down(&reason, most as u32);
                    }
                    reason
                }
                Failure::Busy(reason, asked) => {
                    self.servers.note_busy(server, rest(asked));
                    reason
                }
                Failure::Form(reason) => reason,
                Failure::Refused(reason) => return Err(JudgeError(reason)),
            };
            if is_last {
                return Err(JudgeError(reason));
            }
            *retries += 1;
        }
    }

    /// The server that is asked next, after the wait for it.
    fn turn(&self) -> Result<(usize, bool), JudgeError> {
        let mut has_waited = false;
        loop {
            match self.servers.turn(has_waited) {
                Turn::Ask { server, is_trial } => return Ok((server, is_trial)),
                Turn::Down(reason) => return Err(JudgeError(format!("it is down and not asked again yet: {reason}"))),
                // A bit longer, each its own bit, so that not all come back at once.
                Turn::Wait(wait) => thread::sleep(wait + wait.mul_f64(random_share() / 4.0)),
            }
            has_waited = true;
        }
    }

    fn ask_server(&self, server: usize, body: &Value, question: &Question<'_>) -> Result<String, Failure> {
        let url = &self.urls[server];
        let reply = match self.client.post_json(url, self.key.as_deref(), body, REPLY_BYTES_MAX) {
            Ok(reply) => reply,
            Err(PostError { reason, status: Some(TOO_MANY), retry_after }) => {
                return Err(Failure::Busy(reason, retry_after));
            }
            Err(PostError { reason, status: Some(status), .. })
                if status < SERVER_ERROR && !PASSING.contains(&status) =>
            {
                self.servers.note_answer(server);
                return Err(Failure::Refused(reason));
            }
            Err(PostError { reason, retry_after, .. }) => return Err(Failure::Server(reason, retry_after)),
        };
        let Value::String(text) = &reply["choices"][0]["message"]["content"] else {
            let reason = format!("{url} sent no message: {}", shortened(&reply.to_string()));
            return Err(Failure::Server(reason, None));
        };
        self.servers.note_answer(server);
        (question.form)(text).map_err(Failure::Form)?;
        Ok(text.clone())
    }
}

/// A random number from 0 to 1.
fn random_share() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// A counting semaphore: so many questions may be under way.
struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A question that is under way; over when this is dropped.
struct Permit<'a>(&'a Permits);

impl Permits {
    fn acquire(&self) -> Permit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.returned.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}
