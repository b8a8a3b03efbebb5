//! Pictures that clients name: data URLs always, files below a folder and addresses on the network where the operator allows it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::files::local_path;
use crate::network::HttpClient;
use crate::prompt::ImageSource;
use crate::prompt::data_url::is_data_url;
use crate::serve::error::ApiError;

/// The pictures of a request that are fetched are no larger together.
const FETCHED_BYTES_MAX: u64 = 64 << 20;
/// Longer than this nobody waits for them.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Which pictures may be used.
pub struct ImagePolicy {
    /// Files below it may be named; resolved.
    local_root: Option<PathBuf>,
    /// Fetches from the network.
    client: Option<HttpClient>,
}

impl ImagePolicy {
    /// Files below `local_root`; of the network the hosts of `domains`, wherever they are, and all public addresses if
    /// `allows_public`.
    ///
    /// # Errors
    /// When the folder cannot be found.
    pub fn new(local_root: Option<&Path>, domains: &[String], allows_public: bool) -> std::io::Result<ImagePolicy> {
        let is_open = allows_public || !domains.is_empty();
        let client = is_open.then(|| HttpClient::guarded(domains, allows_public));
        Ok(ImagePolicy { local_root: local_root.map(Path::canonicalize).transpose()?, client })
    }

    /// Begins to fetch a request's pictures.
    pub fn fetching(&self) -> Fetching<'_> {
        Fetching { client: self.client.as_ref(), until: Instant::now() + FETCH_TIMEOUT, bytes: FETCHED_BYTES_MAX }
    }

    /// The picture that `address` names, as field `param` of a request. What lies on the network was fetched before.
    pub fn source(&self, address: String, param: &str) -> Result<ImageSource, ApiError> {
        if is_data_url(&address) {
            return Ok(ImageSource::DataUrl(address));
        }
        if is_remote(&address) {
            return Err(ApiError::field(param, "lies on the network and was not fetched"));
        }
        self.file(&local_path(&address)).map_err(|reason| ApiError::field(param, reason))
    }

    /// A file below the allowed folder. What is elsewhere and what is not there read alike.
    fn file(&self, path: &Path) -> Result<ImageSource, String> {
        let shown = path.display().to_string();
        let shown: String = shown.chars().take(100).collect();
        let Some(root) = &self.local_root else {
            return Err(format!(
                "names the file {shown:?}, and this server reads none; send a data URL, or start it with --allowed-local-media-path"
            ));
        };
        let outside = || format!("names {shown:?}, which is no file below the folder that this server may read");
        let path = root.join(path).canonicalize().map_err(|_| outside())?;
        if !path.starts_with(root) || !path.is_file() {
            return Err(outside());
        }
        Ok(ImageSource::Path(path))
    }
}

/// A request's pictures on their way.
pub struct Fetching<'a> {
    client: Option<&'a HttpClient>,
    until: Instant,
    /// What the rest may have together.
    bytes: u64,
}

impl Fetching<'_> {
    /// The picture at `address` as a data URL.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn fetch(&mut self, address: &str) -> Result<String, String> {
        let shown: String = address.chars().take(100).collect();
        let Some(client) = self.client else {
            return Err(format!(
                "is {shown:?} on the network, which this server does not fetch; send a data URL, or start it with --allow-remote-images \
                 or --allowed-media-domains"
            ));
        };
        let left = self.until.saturating_duration_since(Instant::now());
        let fetched = client.get(address, left, self.bytes);
        let bytes = fetched.map_err(|error| format!("is {shown:?}, which cannot be fetched: {error}"))?;
        self.bytes -= bytes.len() as u64;
        Ok(format!("data:;base64,{}", BASE64_STANDARD.encode(bytes)))
    }
}

/// Whether an address lies on the network.
pub fn is_remote(address: &str) -> bool {
    let has_scheme = |scheme: &str| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    has_scheme("http://") || has_scheme("https://")
}
