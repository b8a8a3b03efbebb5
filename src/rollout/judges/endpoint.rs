//! A model behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, `thyme-engine serve`, or a provider. It is asked at temperature 0.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::network::HttpClient;
use crate::rollout::judge::{JudgeError, shortened};

/// The largest reply that is read.
const REPLY_BYTES_MAX: u64 = 4 << 20;
/// Longest wait for a reply, in seconds.
const SECONDS_MAX: f64 = 1e5;

/// Where the model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointSettings {
    /// The address before `/chat/completions`, such as `http://localhost:8000/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key; no key is sent where it is empty.
    pub api_key_env: String,
    /// How long a reply is waited for.
    pub timeout_seconds: f64,
    /// Tokens of a reply.
    pub max_tokens: u64,
    /// Questions under way at a time.
    pub parallel_requests: usize,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            base_url: String::new(),
            model: String::new(),
            api_key_env: String::new(),
            timeout_seconds: 60.0,
            max_tokens: 64,
            parallel_requests: 16,
        }
    }
}

/// The endpoint, which may be asked by many threads.
pub struct Endpoint {
    client: HttpClient,
    url: String,
    key: Option<String>,
    settings: EndpointSettings,
    permits: Permits,
}

impl Endpoint {
    /// An endpoint that has not been asked yet.
    ///
    /// # Errors
    /// When a key of its settings cannot be, or the environment has no such key.
    pub fn new(settings: &EndpointSettings) -> Result<Self, String> {
        let EndpointSettings { base_url, model, api_key_env, timeout_seconds, parallel_requests, .. } = settings;
        if !(base_url.starts_with("http://") || base_url.starts_with("https://")) {
            return Err(format!("base_url is {base_url:?}; give an address such as \"http://localhost:8000/v1\""));
        }
        if base_url.split('/').nth(2).is_some_and(|host| host.contains('@')) {
            return Err("base_url holds a user name or password, which logs would show; use api_key_env".to_owned());
        }
        if model.is_empty() {
            return Err("model is not given; give the model's name at base_url".to_owned());
        }
        if !(*timeout_seconds > 0.0 && *timeout_seconds <= SECONDS_MAX) {
            return Err(format!("timeout_seconds is {timeout_seconds}; give a number above 0, at most {SECONDS_MAX}"));
        }
        if !(1..=1024).contains(parallel_requests) {
            return Err(format!("parallel_requests is {parallel_requests}; give a whole number from 1 to 1024"));
        }
        let key = match api_key_env.as_str() {
            "" => None,
            name => match std::env::var(name) {
                Ok(key) => Some(key),
                Err(_) => return Err(format!("the environment has no variable {name}, which api_key_env names")),
            },
        };
        let url = format!("{}/chat/completions", base_url.trim_end_matches('/'));
        let client = HttpClient::new(Duration::from_secs_f64(*timeout_seconds));
        let permits = Permits { free: Mutex::new(*parallel_requests), returned: Condvar::new() };
        Ok(Self { client, url, key, settings: settings.clone(), permits })
    }

    /// Questions that may be under way at a time.
    pub fn parallel_requests(&self) -> usize {
        self.settings.parallel_requests
    }

    /// The reply to messages in the form of OpenAI's API. Waits for it.
    ///
    /// # Errors
    /// When there is no reply.
    pub fn ask(&self, messages: &Value) -> Result<String, JudgeError> {
        let body = json!({
            "model": self.settings.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.settings.max_tokens,
        });
        let reply = {
            let _permit = self.permits.acquire();
            self.client.post_json(&self.url, self.key.as_deref(), &body, REPLY_BYTES_MAX).map_err(JudgeError)?
        };
        match &reply["choices"][0]["message"]["content"] {
            Value::String(text) => Ok(text.clone()),
            _ => Err(JudgeError(format!("{} sent no message: {}", self.url, shortened(&reply.to_string())))),
        }
    }
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
