//! The keys of a judge: `[reward.judge]` of rewards, `[tool.judge]` of tools that ask one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::prompt::OWN_VARIABLES;

/// Longest wait for a reply or between two tries, in seconds.
const SECONDS_MAX: f64 = 1e5;
/// Most tries after the first.
const RETRIES_MAX: usize = 1000;

/// Where a model is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeSettings {
    /// The address before `/chat/completions`, such as `http://localhost:8000/v1`; a list of several servers of the model are asked in turn.
    pub base_url: BaseUrl,
    /// The model's name there.
    pub model: String,
    /// For rewards, in place of `base_url` and `model`: a checkpoint folder, or `org/name` in the local Hugging Face cache, that is loaded beside the policy
    /// and answers greedily in this process. `train` and `eval` load it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_path: Option<String>,
    /// The environment variable that holds the key; no key is sent where it is empty.
    pub api_key_env: String,
    /// How long the reply to a request is waited for.
    pub timeout_seconds: f64,
    /// Temperature of the replies; where absent, that of the question (0, or that of `judge_prompt`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Tokens of a reply.
    pub max_tokens: u64,
    /// Questions under way at a time, on all servers together.
    pub parallel_requests: usize,
    /// Tries of a question after its first; where absent, those of the question (3, or those of `judge_prompt`). Tried again is what the model
    /// or a server may do better: no reply in time, a broken connection, status 408, 429 or 500 and above, a reply of another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<usize>,
    /// The wait before the first retry; each further one is twice as long, at most a minute, and a random part of it is left out. A server's
    /// `Retry-After` takes its place, at most a minute.
    pub retry_seconds: f64,
    /// Which replies are kept for equal questions.
    pub cache: CacheUse,
    /// For rewards: steps in a row in which questions were asked and none was answered, after which the run saves a checkpoint and stops; 3 where
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed_steps: Option<u64>,
    /// Further arguments of the judge's chat template, such as `enable_thinking` of Qwen3's. A server gets them in each request, as vLLM and SGLang take
    /// them; a checkpoint in this process tells its template.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
}

/// One address, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "base_url is an address or a list of addresses")]
pub enum BaseUrl {
    /// Of the only server.
    One(String),
    /// Of servers of the same model.
    Several(Vec<String>),
}

/// Which replies are kept for equal questions: those to the same messages, with the same model, temperature and length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheUse {
    /// Those of temperature 0, which asking again would only repeat.
    #[default]
    Greedy,
    /// All.
    Always,
    /// None.
    Never,
}

impl Default for JudgeSettings {
    fn default() -> Self {
        Self {
            base_url: BaseUrl::One(String::new()),
            model: String::new(),
            model_path: None,
            api_key_env: String::new(),
            timeout_seconds: 60.0,
            temperature: None,
            max_tokens: 256,
            parallel_requests: 16,
            max_retries: None,
            retry_seconds: 1.0,
            cache: CacheUse::default(),
            max_failed_steps: None,
            chat_template_kwargs: Map::new(),
        }
    }
}

impl From<String> for BaseUrl {
    fn from(url: String) -> Self {
        BaseUrl::One(url)
    }
}

impl BaseUrl {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            BaseUrl::One(url) => std::slice::from_ref(url),
            BaseUrl::Several(urls) => urls,
        }
    }
}

impl JudgeSettings {
    /// Refuses a value that cannot be.
    ///
    /// # Errors
    /// The key, its value and what it may be.
    pub fn check(&self) -> Result<(), String> {
        match &self.model_path {
            Some(_) => self.check_alone()?,
            None => self.check_addresses()?,
        }
        if let Some(name) = OWN_VARIABLES.into_iter().find(|name| self.chat_template_kwargs.contains_key(*name)) {
            return Err(format!(
                "chat_template_kwargs has {name:?}, which the template is told in any case; remove it"
            ));
        }
        let numbers = [
            ("timeout_seconds", self.timeout_seconds, self.timeout_seconds > 0.0, SECONDS_MAX, "a number above 0,"),
            ("retry_seconds", self.retry_seconds, self.retry_seconds >= 0.0, SECONDS_MAX, "a number from 0,"),
            (
                "temperature",
                self.temperature.unwrap_or(0.0),
                self.temperature.unwrap_or(0.0) >= 0.0,
                100.0,
                "a number from 0,",
            ),
        ];
        for (key, value, is_enough, most, wanted) in numbers {
            if !(is_enough && value <= most) {
                return Err(format!("{key} is {value}; give {wanted} at most {most}"));
            }
        }
        let counts = [
            ("max_tokens", self.max_tokens, 1, 1 << 20),
            ("parallel_requests", self.parallel_requests as u64, 1, 1024),
            ("max_retries", self.max_retries.unwrap_or(0) as u64, 0, RETRIES_MAX as u64),
            ("max_failed_steps", self.max_failed_steps.unwrap_or(1), 1, u64::MAX),
        ];
        match counts.into_iter().find(|(_, count, least, most)| !(least..=most).contains(&count)) {
            Some((key, count, least, u64::MAX)) => Err(format!("{key} is {count}; give at least {least}")),
            Some((key, count, least, most)) => {
                Err(format!("{key} is {count}; give a whole number from {least} to {most}"))
            }
            None => Ok(()),
        }
    }

    /// Refuses keys that mean nothing to a judge in this process.
    fn check_alone(&self) -> Result<(), String> {
        let given = [
            ("base_url", self.base_url != JudgeSettings::default().base_url),
            ("model", !self.model.is_empty()),
            ("api_key_env", !self.api_key_env.is_empty()),
            ("temperature", self.temperature.is_some_and(|temperature| temperature != 0.0)),
            ("max_retries", self.max_retries.is_some_and(|retries| retries != 0)),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((key, _)) => Err(format!(
                "{key} is given beside model_path, whose checkpoint answers in this process, greedily and at the first try; remove one of the two"
            )),
            None => Ok(()),
        }
    }

    fn check_addresses(&self) -> Result<(), String> {
        let addresses = self.base_url.all();
        if addresses.is_empty() {
            return Err("base_url is an empty list; give the address of a server".to_owned());
        }
        for url in addresses {
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                return Err(format!("base_url is {url:?}; give an address such as \"http://localhost:8000/v1\""));
            }
            if url.split('/').nth(2).is_some_and(|host| host.contains('@')) {
                return Err("base_url holds a user name or password, which logs would show; use api_key_env".to_owned());
            }
        }
        match self.model.is_empty() {
            true => Err("model is not given; give the model's name at base_url".to_owned()),
            false => Ok(()),
        }
    }

    /// The key of `api_key_env`; none where that is empty.
    ///
    /// # Errors
    /// When the environment has no such variable.
    pub fn key(&self) -> Result<Option<String>, String> {
        match self.api_key_env.as_str() {
            "" => Ok(None),
            name => std::env::var(name)
                .map(Some)
                .map_err(|_| format!("the environment has no variable {name}, which api_key_env names")),
        }
    }
}
