//! Which addresses a client of ours may make us reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Finds addresses, and refuses those that are neither of a host that the operator named nor, if that is enough, of the public network: a
/// client must not reach through us what only we can reach. The connection goes to the address that was looked at, of redirects too.
#[derive(Debug)]
pub(super) struct AddressGuard {
    resolver: DefaultResolver,
    /// In small letters.
    domains: Vec<String>,
    allows_public: bool,
}

impl AddressGuard {
    pub(super) fn new(domains: &[String], allows_public: bool) -> AddressGuard {
        let domains = domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        AddressGuard { resolver: DefaultResolver::default(), domains, allows_public }
    }
}

impl Resolver for AddressGuard {
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
