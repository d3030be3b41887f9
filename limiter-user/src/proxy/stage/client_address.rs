//! Who the client is: the socket's peer, or the rightmost hop that no trusted proxy vouches for.
//!
//! In: peer and headers; out: one address. Only a trusted peer is believed; hops are read from the
//! right, so that nothing a client puts to the left is ever parsed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header::FORWARDED};
use ipnet::IpNet;

use crate::{limits::AddressKey, policy::http::ClientAddressSource, proxy::compiled::Compiled};

/// Hops that are looked at, at most.
const MAX_HOPS: usize = 32;

/// Whom a request is attributed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::proxy) struct Client {
    /// Address by the policy's source.
    pub(in crate::proxy) address: IpAddr,
    /// What limits count it by.
    pub(in crate::proxy) key: AddressKey,
    /// No control applies to it.
    pub(in crate::proxy) trusted: bool,
}

/// Resolves the client of a request that came from `peer`, which said over the PROXY protocol that
/// it speaks for `source`.
pub(in crate::proxy) fn resolve(
    policy: &Compiled,
    (peer, source): (IpAddr, Option<IpAddr>),
    headers: &HeaderMap,
) -> Client {
    let address = match policy.client_address {
        ClientAddressSource::Peer => peer,
        ClientAddressSource::Proxy => source.unwrap_or(peer),
        _ if !contains(&policy.trusted_proxies, peer) => peer,
        ClientAddressSource::Forwarded => {
            let hops = backwards(headers, FORWARDED.as_str())
                .map(|element| forwarded_for(element).and_then(parse_node));
            untrusted(&policy.trusted_proxies, peer, hops)
        }
        ClientAddressSource::XForwardedFor => {
            let hops = backwards(headers, "x-forwarded-for").map(parse_node);
            untrusted(&policy.trusted_proxies, peer, hops)
        }
    };
    Client { address, key: AddressKey::new(address), trusted: contains(&policy.trusted, address) }
}

/// Whether any of `prefixes` has `address`.
fn contains(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// The first hop from the right that is not a trusted proxy. A hop that names no address ends the
/// walk: what is known is the proxy that reported it.
fn untrusted(
    proxies: &[IpNet],
    peer: IpAddr,
    hops: impl Iterator<Item = Option<IpAddr>>,
) -> IpAddr {
    let mut known = peer;
    for hop in hops.take(MAX_HOPS) {
        let Some(address) = hop else {
            break;
        };
        known = address;
        if !contains(proxies, address) {
            break;
        }
    }
    known
}

/// The comma-separated elements of all lines of a header, last first.
fn backwards<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .rev()
        .flat_map(|line| Elements(Some(line.to_str().unwrap_or_default())))
}

/// Splits at commas outside quoted strings, from the right.
struct Elements<'a>(Option<&'a str>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0?;
        let bytes = text.as_bytes();
        let mut quoted = false;
        for position in (0..bytes.len()).rev() {
            match bytes[position] {
                b'"' if !escaped(&bytes[..position]) => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = Some(&text[..position]);
                    return Some(text[position + 1..].trim_ascii());
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(text.trim_ascii())
    }
}

/// Whether an odd number of backslashes ends `before`.
fn escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The value of `for=` in one element of `Forwarded` (RFC 7239, 4), without quotes. An element
/// with two is nobody's word.
fn forwarded_for(element: &str) -> Option<&str> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim_ascii().eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?.trim_ascii();
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"'),
        None => Some(value),
    }
}

/// An address with or without port (RFC 7239, 6); `None` for `unknown` and obfuscated names.
fn parse_node(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(node);
    bare.parse::<IpAddr>()
        .or_else(|_| node.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
        .or_else(|| {
            // A port may be obfuscated too (`_abc`).
            let (address, port) = node.rsplit_once(':')?;
            let address =
                address.strip_prefix('[').map_or(Some(address), |v| v.strip_suffix(']'))?;
            port.starts_with('_').then(|| address.parse().ok())?
        })
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn resolve_lines(name: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers
                .append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(line).unwrap());
        }
        let proxies: Vec<IpNet> =
            ["10.0.0.0/8", "2001:db8::/32"].map(|prefix| prefix.parse().unwrap()).to_vec();
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let address = if name == "forwarded" {
            let hops = backwards(&headers, name).map(|e| forwarded_for(e).and_then(parse_node));
            untrusted(&proxies, peer, hops)
        } else {
            untrusted(&proxies, peer, backwards(&headers, name).map(parse_node))
        };
        address.to_string()
    }

    #[test]
    fn x_forwarded_for() {
        for (lines, client) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["1.1.1.1, 192.0.2.1, 10.0.0.9"], "192.0.2.1"),
            (&["1.1.1.1, 192.0.2.1", "10.0.0.9"], "192.0.2.1"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["[2001:db9::1]:80"], "2001:db9::1"),
            (&["2001:db9::1"], "2001:db9::1"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            (&["garbage, 10.0.0.9"], "10.0.0.9"),
            (&["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            (&["192.0.2.1,"], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(resolve_lines("x-forwarded-for", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn forwarded() {
        for (lines, client) in [
            (&["for=192.0.2.1"][..], "192.0.2.1"),
            (&["For=\"[2001:db9::17]:4711\";proto=http"], "2001:db9::17"),
            (&["for=1.1.1.1, for=192.0.2.43;by=10.0.0.9, for=10.0.0.9"], "192.0.2.43"),
            (&["for=\", for=192.0.2.43"], "192.0.2.43"),
            (&["for=\"a,b\\\"\", for=192.0.2.44"], "192.0.2.44"),
            (&["for=\"192.0.2.43:_port\""], "192.0.2.43"),
            (&["for=192.0.2.1, for=unknown"], "10.0.0.1"),
            (&["for=192.0.2.1, for=_hidden"], "10.0.0.1"),
            (&["for=192.0.2.1, proto=http"], "10.0.0.1"),
            (&["for=192.0.2.1;for=192.0.2.2"], "10.0.0.1"),
        ] {
            assert_eq!(resolve_lines("forwarded", lines), client, "{lines:?}");
        }
    }
}
