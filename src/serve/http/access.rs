//! Who may use the server: the key, and what a browser says of the page that asks. A page of another site must neither read answers nor change
//! anything, whatever address it reaches the server by.

use std::net::IpAddr;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};

use crate::serve::error::ApiError;

/// Routes of a weight transfer over the network, which is not done here.
pub const TRANSFER_ROUTES: [&str; 6] = [
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/finish_weight_update",
    "/init_communicator",
    "/update_named_param",
    "/close_communicator",
];
/// Routes that change the server for all, besides those of a transfer of weights.
const ADMIN_ROUTES: [&str; 3] = ["/update_weights", "/update_weights_from_disk", "/reset_prefix_cache"];
/// Says which kind of site a request comes from; browsers set it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may use the server.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What clients must know, one of these; empty for no key.
    pub api_keys: Vec<String>,
    /// Web origins whose pages may use the server.
    pub origins: Origins,
    /// Names that the server goes by.
    pub hosts: Hosts,
}

/// Web origins, as in `https://example.com:8443`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origins {
    /// All of them.
    Any,
    /// These, in the form in which browsers send them.
    Listed(Vec<String>),
}

impl Default for Origins {
    fn default() -> Origins {
        Origins::Listed(Vec::new())
    }
}

/// Names in a request's `Host`, with or without a port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Hosts {
    /// Any name: the header is not checked.
    #[default]
    Any,
    /// Names and addresses of this machine for itself, and these.
    Loopback(Vec<String>),
}

/// What a request says of where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender<'a> {
    /// A program, or a page of the server's own origin.
    Own,
    /// A page of an allowed origin.
    Allowed(&'a HeaderValue),
    /// A page of another origin.
    Foreign,
}

impl Origins {
    /// Reads origins; `*` is all of them.
    ///
    /// # Errors
    /// The first that is none.
    pub fn read(values: &[String]) -> Result<Origins, String> {
        if values.iter().any(|value| value == "*") {
            return Ok(Origins::Any);
        }
        let read = |value: &String| {
            origin(value.strip_suffix('/').unwrap_or(value)).ok_or_else(|| {
                format!("{value:?} is no origin; give a scheme and a host, such as https://example.com:8443, or *")
            })
        };
        values.iter().map(read).collect::<Result<_, _>>().map(Origins::Listed)
    }
}

impl Hosts {
    /// Of a server that listens at an address, with the names that its operator gives; `*` is any name.
    ///
    /// # Errors
    /// The first that is none.
    pub fn read(address: IpAddr, values: &[String]) -> Result<Hosts, String> {
        if values.iter().any(|value| value == "*") || (values.is_empty() && !address.is_loopback()) {
            return Ok(Hosts::Any);
        }
        let read = |value: &String| {
            split_host(&value.to_ascii_lowercase())
                .map(|(name, port)| port.map_or(name.to_owned(), |port| format!("{name}:{port}")))
                .ok_or_else(|| {
                    format!("{value:?} is no host; give a name or an address, such as models.example.com or *")
                })
        };
        values.iter().map(read).collect::<Result<_, _>>().map(Hosts::Loopback)
    }

    /// Whether the server goes by a name that it is called.
    fn have(&self, name: &str, port: Option<u16>) -> bool {
        match self {
            Hosts::Any => true,
            Hosts::Loopback(listed) => is_loopback(name) || is_listed(listed, name, port),
        }
    }

    /// Whether a page whose origin is this host must be the server's own: a name that somebody else can give to the server's address
    /// does not say so.
    fn own(&self, name: &str, port: Option<u16>) -> bool {
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        match self {
            Hosts::Any => is_loopback(name) || is_address,
            Hosts::Loopback(_) => self.have(name, port),
        }
    }
}

fn is_listed(listed: &[String], name: &str, port: Option<u16>) -> bool {
    let with_port = port.map(|port| format!("{name}:{port}"));
    listed.iter().any(|listed| listed == name || Some(listed) == with_port.as_ref())
}

/// Whether a host is this machine for itself, whatever a name server says.
fn is_loopback(name: &str) -> bool {
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_address || name == "localhost" || name.ends_with(".localhost")
}

/// Name, in brackets if it is an address of version 6, and port of a host in lower case.
fn split_host(host: &str) -> Option<(&str, Option<u16>)> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(end);
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))?),
        None if port.is_empty() => None,
        None => return None,
    };
    let is_name = match name.strip_prefix('[') {
        Some(address) => address.trim_end_matches(']').parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
        None => {
            let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !name.is_empty() && name.bytes().all(is_of_names)
        }
    };
    is_name.then_some((name.strip_suffix('.').unwrap_or(name), port))
}

/// Scheme, name and port of an origin in lower case; the port of the scheme where none is said.
fn split_origin(origin: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, host) = origin.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let (name, port) = split_host(host)?;
    let own_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    (!scheme.is_empty() && scheme.bytes().all(is_scheme)).then_some((scheme, name, port.or(own_port)))
}

/// An origin in one form.
fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, name, port) = split_origin(&text)?;
    Some(port.map_or_else(|| format!("{scheme}://{name}"), |port| format!("{scheme}://{name}:{port}")))
}

impl Access {
    /// Checks keys: each must be one that a client can send.
    ///
    /// # Errors
    /// What is wrong with the first that is none.
    pub fn check_keys(keys: &[String]) -> Result<(), String> {
        for key in keys {
            if key.is_empty() {
                return Err("is empty; give the key that clients must send, or leave it out to ask for none".to_owned());
            }
            if key.trim() != key || key.chars().any(char::is_control) {
                return Err("has white space at its ends or control characters, which no client can send in a header"
                    .to_owned());
            }
        }
        Ok(())
    }

    /// The host that a request is for, in lower case; none where it does not say.
    ///
    /// # Errors
    /// When it says so in no understandable way.
    fn host(headers: &HeaderMap, uri: &Uri) -> Result<Option<String>, ApiError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let unclear = || ApiError::bad("the header `Host` is not one name or address; send one");
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => Some(host.to_str().map_err(|_| unclear())?.to_ascii_lowercase()),
            (Some(_), Some(_)) => return Err(unclear()),
        };
        // A URL that begins with a scheme names a host too.
        let named = uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
        match (host, named) {
            (Some(host), Some(named)) if host != named => {
                Err(ApiError::bad("the header `Host` names another host than the URL; send the same"))
            }
            (host, named) => Ok(host.or(named)),
        }
    }

    /// Where a request comes from.
    ///
    /// # Errors
    /// When it is for another server.
    pub fn sender<'a>(&self, headers: &'a HeaderMap, uri: &Uri) -> Result<Sender<'a>, ApiError> {
        let host = Access::host(headers, uri)?;
        let host = host.as_deref().map(|host| split_host(host).ok_or(host)).transpose();
        let host = host.map_err(foreign_host)?;
        if let Some((name, port)) = host
            && !self.hosts.have(name, port)
        {
            return Err(foreign_host(name));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let sender = match (origins.next(), origins.next()) {
            (None, _) => self.sender_without_origin(headers),
            (Some(origin), None) => self.sender_of(origin, host),
            (Some(_), Some(_)) => Sender::Foreign,
        };
        Ok(sender)
    }

    /// A browser names the origin of whatever can change something; a request without is a program's, unless a browser says otherwise.
    fn sender_without_origin(&self, headers: &HeaderMap) -> Sender<'static> {
        let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
        match headers.get_all(FETCH_SITE).iter().all(is_own) {
            true => Sender::Own,
            false => Sender::Foreign,
        }
    }

    fn sender_of<'a>(&self, header: &'a HeaderValue, host: Option<(&str, Option<u16>)>) -> Sender<'a> {
        let text = header.to_str().unwrap_or_default().to_ascii_lowercase();
        if let (Some((scheme, name, port)), Some((own, own_port))) = (split_origin(&text), host) {
            let own_port = own_port.or(if scheme == "https" { Some(443) } else { Some(80) });
            if (name, port) == (own, own_port) && matches!(scheme, "http" | "https") && self.hosts.own(own, own_port) {
                return Sender::Own;
            }
        }
        match &self.origins {
            Origins::Any => Sender::Allowed(header),
            Origins::Listed(listed) if origin(&text).is_some_and(|origin| listed.contains(&origin)) => {
                Sender::Allowed(header)
            }
            Origins::Listed(_) => Sender::Foreign,
        }
    }

    /// The number of the key that a request brings, if it is one of the server's.
    pub fn key(&self, headers: &HeaderMap) -> Option<usize> {
        let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
        let given = if scheme.eq_ignore_ascii_case(b"Bearer ") { given } else { b"" };
        self.api_keys.iter().position(|key| is_equal(key.as_bytes(), given))
    }

    /// Whether pages of an origin that is told may read what others may not.
    pub fn allowed_origin(&self, origin: &HeaderValue) -> HeaderValue {
        if self.origins == Origins::Any { HeaderValue::from_static("*") } else { origin.clone() }
    }
}

/// Compares in a time that does not tell how much of a key was right.
fn is_equal(key: &[u8], given: &[u8]) -> bool {
    given.len() == key.len() && given.iter().zip(key).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Whether a route changes the server for all: a page of another origin may never use it, even where it may use the others.
pub fn is_of_admins(path: &str) -> bool {
    ADMIN_ROUTES.contains(&path) || TRANSFER_ROUTES.contains(&path)
}

fn foreign_host(name: &str) -> ApiError {
    let name: String = name.chars().take(100).collect();
    let message = format!(
        "this server does not go by the name {name:?}; use http://localhost or its address, or start it with --allowed-hosts"
    );
    ApiError::status(StatusCode::FORBIDDEN, "foreign_host", message)
}

/// Checks that a body is said to be JSON: what a page can send without asking first is not.
///
/// # Errors
/// When it is said to be something else, or nothing is said.
pub fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => kind.to_str().is_ok_and(is_json),
        _ => false,
    };
    if is_json {
        return Ok(());
    }
    let message = "the body is not said to be of type application/json; send the header `Content-Type: application/json` (curl: -H \
                   'Content-Type: application/json')";
    Err(ApiError::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_content_type", message))
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let suffixed = kind.strip_prefix("application/").and_then(|kind| kind.strip_suffix("+json"));
    kind == "application/json" || suffixed.is_some_and(|kind| !kind.is_empty() && !kind.contains([',', ' ', '/']))
}

/// A request of a route that needs no body: it has none, or one of JSON, which is not read.
pub struct Bodiless;

impl<S: Sync> FromRequest<S> for Bodiless {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Bodiless, ApiError> {
        let is_empty = Body::size_hint(request.body()).exact() == Some(0);
        match is_empty && !request.headers().contains_key(header::CONTENT_TYPE) {
            true => Ok(Bodiless),
            false => check_content_type(request.headers()).map(|()| Bodiless),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_and_hosts_are_compared_in_one_form() {
        assert_eq!(origin("HTTP://Example.com"), origin("http://example.com:80"));
        assert_eq!(origin("https://a").as_deref(), Some("https://a:443"));
        assert_eq!(origin("https://a."), origin("https://a"));
        for wrong in
            ["null", "", "a", "http://", "http://a/b", "http://a b", "http://a:99999", "http://u@a", "http://[::g]"]
        {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
        for (host, name, port) in [
            ("localhost:80", "localhost", Some(80)),
            ("127.0.0.1", "127.0.0.1", None),
            ("[::1]:8000", "[::1]", Some(8000)),
            ("localhost.", "localhost", None),
        ] {
            assert_eq!(split_host(host), Some((name, port)));
            assert!(is_loopback(name));
        }
        for wrong in ["", ":80", "[::1", "[a]", "a:b", "a:+1", "a:", "a/b", "a@b", "127.0.0.1.evil.example\0"] {
            assert_eq!(split_host(wrong), None, "{wrong}");
        }
        for foreign in ["localhost.evil.example", "evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0"] {
            assert!(!is_loopback(split_host(foreign).unwrap().0), "{foreign}");
        }
    }
}
