//! Whom a request is served for: the tenants and their requests, among which all is shared out.

use std::net::IpAddr;

/// A request and its tenant: what is shared out, is shared among tenants first and among their requests then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Client {
    /// The tenant: all who share a key or an address.
    pub tenant: u128,
    /// Number of the request.
    pub request: u64,
}

impl Client {
    /// A request that brought the key of this number, if there are several, from an address. All of this machine share one, and so do
    /// those of a network of version 6.
    pub fn new(key: Option<usize>, address: Option<IpAddr>, request: u64) -> Client {
        // Where the server listens at addresses of version 6, those of version 4 come written as such.
        let tenant = match (key, address.map(|address| address.to_canonical())) {
            (Some(key), _) => 1 + key as u128,
            (None, Some(IpAddr::V4(address))) if !address.is_loopback() => address.to_ipv6_mapped().to_bits(),
            (None, Some(IpAddr::V6(address))) if !address.is_loopback() => address.to_bits() >> 64 << 64,
            (None, _) => 0,
        };
        Client { tenant, request }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_version_4_are_tenants_of_their_own_however_they_are_written() {
        let tenant = |address: &str| Client::new(None, Some(address.parse().unwrap()), 0).tenant;
        assert_ne!(tenant("::ffff:192.0.2.1"), tenant("::ffff:192.0.2.2"));
        assert_eq!(tenant("::ffff:192.0.2.1"), tenant("192.0.2.1"));
        assert_eq!(tenant("::ffff:127.0.0.1"), tenant("::1"));
        assert_eq!(tenant("2001:db8::1"), tenant("2001:db8::2"));
    }
}
