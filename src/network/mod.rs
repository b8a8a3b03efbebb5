//! HTTP as a client: the one place that names the HTTP library. The server fetches pictures with it, rewards ask a judge.

mod address_guard;

use std::time::Duration;

use serde_json::Value;
use ureq::config::Config;
use ureq::unversioned::transport::DefaultConnector;

use address_guard::AddressGuard;

/// Redirects that are followed.
const REDIRECTS_MAX: u32 = 5;
/// The least status that is an error.
const FIRST_ERROR: u16 = 400;
/// Characters of an error's body that its message has.
const SAID_CHARACTERS: usize = 200;

/// Sends requests. No proxy of the environment is used.
#[derive(Clone, Debug)]
pub struct HttpClient {
    agent: ureq::Agent,
}

impl HttpClient {
    /// A client that waits `timeout` for each reply, the connection included.
    pub fn new(timeout: Duration) -> HttpClient {
        let config = Config::builder().max_redirects(REDIRECTS_MAX).proxy(None).timeout_global(Some(timeout));
        HttpClient { agent: config.build().new_agent() }
    }

    /// A client for addresses that others name: it reaches the hosts of `domains`, wherever they are, and all public addresses if
    /// `allows_public`. It looks at the address that it connects to, of redirects too.
    pub fn guarded(domains: &[String], allows_public: bool) -> HttpClient {
        let config = Config::builder().max_redirects(REDIRECTS_MAX).proxy(None).build();
        let guard = AddressGuard::new(domains, allows_public);
        HttpClient { agent: ureq::Agent::with_parts(config, DefaultConnector::default(), guard) }
    }

    /// The bytes at `url`, at most `bytes_max`, which must be there within `timeout`.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn get(&self, url: &str, timeout: Duration, bytes_max: u64) -> Result<Vec<u8>, String> {
        let request = self.agent.get(url).config().timeout_global(Some(timeout)).build();
        let mut response = request.call().map_err(|error| error.to_string())?;
        response.body_mut().with_config().limit(bytes_max).read_to_vec().map_err(|error| error.to_string())
    }

    /// The JSON that `url` replies to a POST of `body`, of at most `bytes_max` bytes. `bearer` is sent as the key, where there is one.
    ///
    /// # Errors
    /// When there is no reply, its status is 400 or above, or it is not JSON; the text names `url` and never the key.
    pub fn post_json(&self, url: &str, bearer: Option<&str>, body: &Value, bytes_max: u64) -> Result<Value, PostError> {
        let failed = |error: &dyn std::fmt::Display| PostError {
            reason: format!("{url}: {error}"),
            status: None,
            retry_after: None,
        };
        let request = self.agent.post(url).config().http_status_as_error(false).build();
        let mut request = request.header("Content-Type", "application/json");
        if let Some(key) = bearer {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string()).map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let bytes = response.body_mut().with_config().limit(bytes_max).read_to_vec();
        if status >= FIRST_ERROR {
            let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
            let text = bearer.iter().fold(text, |text, key| text.replace(*key, "[the key]"));
            let said: String = text.chars().take(SAID_CHARACTERS).collect();
            let reason = format!("{url}: http status: {status} {said}").trim_end().to_owned();
            return Err(PostError { reason, status: Some(status), retry_after: retry_after.map(Duration::from_secs) });
        }
        let bytes = bytes.map_err(|error| failed(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| failed(&format!("the reply is not JSON: {error}")))
    }
}

/// Why a POST gave no JSON.
#[derive(Clone, Debug)]
pub struct PostError {
    /// In words; it names the address and never the key.
    pub reason: String,
    /// The status of the reply, where it is an error's.
    pub status: Option<u16>,
    /// How long the server asks to be left alone: its `Retry-After`, where that is a number of seconds.
    pub retry_after: Option<Duration>,
}
