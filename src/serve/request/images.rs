//! Pictures that clients name: data URLs always, files below a folder and addresses on the network where the operator allows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::files::local_path;
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
    agent: Option<ureq::Agent>,
}

impl ImagePolicy {
    /// Files below `local_root`; of the network the hosts of `domains`, wherever they are, and all public addresses if
    /// `allows_public`.
    ///
    /// # Errors
    /// When the folder cannot be found.
    pub fn new(local_root: Option<&Path>, domains: &[String], allows_public: bool) -> std::io::Result<ImagePolicy> {
        let config = Config::builder().max_redirects(5).proxy(None).build();
        let domains: Vec<String> = domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        let is_open = allows_public || !domains.is_empty();
        let resolver = Guard { resolver: DefaultResolver::default(), domains, allows_public };
        let agent = is_open.then(|| ureq::Agent::with_parts(config, DefaultConnector::default(), resolver));
        Ok(ImagePolicy { local_root: local_root.map(Path::canonicalize).transpose()?, agent })
    }

    /// Begins to fetch a request's pictures.
    pub fn fetching(&self) -> Fetching<'_> {
        Fetching { agent: self.agent.as_ref(), until: Instant::now() + FETCH_TIMEOUT, bytes: FETCHED_BYTES_MAX }
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
    agent: Option<&'a ureq::Agent>,
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
        let Some(agent) = self.agent else {
            return Err(format!(
                "is {shown:?} on the network, which this server does not fetch; send a data URL, or start it with --allow-remote-images \
                 or --allowed-media-domains"
            ));
        };
        let failed = |error: ureq::Error| format!("is {shown:?}, which cannot be fetched: {error}");
        let left = self.until.saturating_duration_since(Instant::now());
        let request = agent.get(address).config().timeout_global(Some(left)).build();
        let mut response = request.call().map_err(failed)?;
        let bytes = response.body_mut().with_config().limit(self.bytes).read_to_vec().map_err(failed)?;
        self.bytes -= bytes.len() as u64;
        Ok(format!("data:;base64,{}", BASE64_STANDARD.encode(bytes)))
    }
}

/// Finds addresses, and refuses those that are neither of a host that the operator named nor, if that is enough, of the public network: a
/// client must not reach through us what only we can reach. The connection goes to the address that was looked at, of redirects too.
#[derive(Debug)]
struct Guard {
    resolver: DefaultResolver,
    /// In small letters.
    domains: Vec<String>,
    allows_public: bool,
}

impl Resolver for Guard {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let refused = |reason: &str| Err(ureq::Error::Other(reason.into()));
        let host = uri.host().unwrap_or("").to_ascii_lowercase();
        let is_named = self.domains.contains(&host);
        if !is_named && !self.allows_public {
            return refused("its host is not among --allowed-media-domains");
        }
        let found = self.resolver.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter().filter(|address| is_named || is_public(address.ip())) {
            allowed.push(*address);
        }
        match allowed.is_empty() {
            true => refused("its host has no public address, and is not among --allowed-media-domains"),
            false => Ok(allowed),
        }
    }
}

/// Whether an address is one of the public network.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_benchmark = a == 198 && (b == 18 || b == 19);
    let is_protocol = a == 192 && b == 0 && c == 0;
    !(a == 0
        || a >= 240
        || is_shared
        || is_benchmark
        || is_protocol
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

/// Global unicast without the prefixes that stand for IPv4 addresses, which would lead around the rules above.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let is_global = first & 0xE000 == 0x2000;
    let is_translated = first == 0x2002 || (first == 0x2001 && second < 0x200);
    let is_documentation = first == 0x2001 && second == 0xDB8;
    is_global && !is_translated && !is_documentation
}

/// Whether an address lies on the network.
pub fn is_remote(address: &str) -> bool {
    let has_scheme = |scheme: &str| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    has_scheme("http://") || has_scheme("https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_network_are_public() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
