//! Who the client is: the socket's peer, or the rightmost hop that no trusted proxy vouches for.
//!
//! In: peer and headers; out: one address. Only a trusted peer is believed; hops are read from the
//! right, so that nothing a client puts to the left is ever parsed.

use std::net::IpAddr;

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
    /// Whether it spoke TLS to the proxy in front, if a trusted one says so.
    pub(in crate::proxy) https: Option<bool>,
}

/// What a proxy says of whom it got a request from.
#[derive(Clone, Copy, Debug, Default)]
struct Hop {
    /// `None`: nothing that is an address.
    address: Option<IpAddr>,
    https: Option<bool>,
}

/// Resolves the client of a request. `peers`: where it came from, and for whom that said it speaks
/// over the PROXY protocol.
pub(in crate::proxy) fn resolve(
    policy: &Compiled,
    peers: (IpAddr, Option<IpAddr>),
    headers: &HeaderMap,
) -> Client {
    let (address, https) = by(policy.client_address, &policy.trusted_proxies, peers, headers);
    let trusted = contains(&policy.trusted, address);
    Client { address, key: AddressKey::new(address), trusted, https }
}

/// The client of a connection, if no request on it can name another one.
pub(in crate::proxy) fn before_request(
    policy: &Compiled,
    peers: (IpAddr, Option<IpAddr>),
) -> Option<Client> {
    let named = matches!(
        policy.client_address,
        ClientAddressSource::Forwarded | ClientAddressSource::XForwardedFor
    ) && contains(&policy.trusted_proxies, peers.0);
    (!named).then(|| resolve(policy, peers, &HeaderMap::new()))
}

/// The client's address, and whether it spoke TLS to `proxies`, if one of them says so.
pub(in crate::proxy) fn by(
    from: ClientAddressSource,
    proxies: &[IpNet],
    (peer, source): (IpAddr, Option<IpAddr>),
    headers: &HeaderMap,
) -> (IpAddr, Option<bool>) {
    match from {
        ClientAddressSource::Peer => (peer, None),
        ClientAddressSource::Proxy => (source.unwrap_or(peer), None),
        _ if !contains(proxies, peer) => (peer, None),
        ClientAddressSource::Forwarded => {
            let hops = backwards(headers, FORWARDED.as_str()).map(forwarded);
            untrusted(proxies, peer, hops)
        }
        ClientAddressSource::XForwardedFor => {
            let hops = backwards(headers, "x-forwarded-for")
                .map(|node| Hop { address: parse_node(node), https: None });
            let (address, _) = untrusted(proxies, peer, hops);
            (address, backwards(headers, "x-forwarded-proto").next().and_then(is_https))
        }
    }
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
    hops: impl Iterator<Item = Hop>,
) -> (IpAddr, Option<bool>) {
    let mut known = (peer, None);
    for hop in hops.take(MAX_HOPS) {
        let Some(address) = hop.address else {
            break;
        };
        known = (address, hop.https);
        if !contains(proxies, address) {
            break;
        }
    }
    known
}

/// The comma-separated elements of all lines of a header, last first.
fn backwards<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().rev().flat_map(|line| Elements(Some(line.as_bytes())))
}

/// Splits at commas outside quoted strings, from the right.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let bytes = self.0?;
        let mut quoted = false;
        for position in (0..bytes.len()).rev() {
            match bytes[position] {
                b'"' if !escaped(&bytes[..position]) => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = Some(&bytes[..position]);
                    return Some(bytes[position + 1..].trim_ascii());
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(bytes.trim_ascii())
    }
}

/// Whether an odd number of backslashes ends `before`.
fn escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// One element of `Forwarded` (RFC 7239, 4). One that is not in order, or says something twice, is
/// nobody's word.
fn forwarded(element: &[u8]) -> Hop {
    let mut hop = Hop::default();
    let mut seen = (false, false);
    let mut rest = element;
    loop {
        let Some((name, value, after)) = pair(rest) else {
            return Hop::default();
        };
        let known = if name.eq_ignore_ascii_case(b"for") {
            hop.address = parse_node(value);
            Some(&mut seen.0)
        } else if name.eq_ignore_ascii_case(b"proto") {
            hop.https = is_https(value);
            Some(&mut seen.1)
        } else {
            None
        };
        if known.is_some_and(|seen| std::mem::replace(seen, true)) {
            return Hop::default();
        }
        match after {
            [] => return hop,
            [_, after @ ..] => rest = after,
        }
    }
}

/// The first `name=value` up to a semicolon, and what is behind its value, which has no quotes any
/// more. Escapes inside stay: nothing that is looked for has any.
fn pair(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let (name, rest) = text.split_at(text.iter().position(|byte| *byte == b'=')?);
    let value = rest[1..].trim_ascii_start();
    let (value, after) = if let Some(quoted) = value.strip_prefix(b"\"") {
        let end = (0..quoted.len()).find(|at| quoted[*at] == b'"' && !escaped(&quoted[..*at]))?;
        (&quoted[..end], quoted[end + 1..].trim_ascii_start())
    } else {
        let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
        (value[..end].trim_ascii_end(), &value[end..])
    };
    let name = name.trim_ascii_end();
    let whole = after.first().is_none_or(|byte| *byte == b';');
    (whole && !name.is_empty() && !name.contains(&b'"')).then_some((name, value, after))
}

fn is_https(scheme: &[u8]) -> Option<bool> {
    if scheme.eq_ignore_ascii_case(b"https") {
        Some(true)
    } else {
        scheme.eq_ignore_ascii_case(b"http").then_some(false)
    }
}

/// An address with or without port (RFC 7239, 6); `None` for `unknown` and obfuscated names.
fn parse_node(node: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(node).ok()?;
    let (address, port) = if let Some(rest) = node.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (IpAddr::V6(address.parse().ok()?), port)
    } else if let Ok(address) = node.parse::<IpAddr>() {
        // Without brackets an IPv6 address has no port.
        (address, "")
    } else {
        let (address, _) = node.split_once(':')?;
        (IpAddr::V4(address.parse().ok()?), &node[address.len()..])
    };
    let is_port = |port: &str| match port.strip_prefix('_') {
        Some(hidden) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !hidden.is_empty() && hidden.bytes().all(plain)
        }
        None => port.len() <= 5 && port.parse::<u16>().is_ok() && !port.starts_with('+'),
    };
    let fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    fine.then(|| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn resolve_lines(name: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                HeaderName::try_from(name).unwrap(),
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        let proxies: Vec<IpNet> =
            ["10.0.0.0/8", "2001:db8::/32"].map(|prefix| prefix.parse().unwrap()).to_vec();
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let hop = |element| match name {
            "forwarded" => forwarded(element),
            _ => Hop { address: parse_node(element), https: None },
        };
        untrusted(&proxies, peer, backwards(&headers, name).map(hop)).0.to_string()
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
            (&["\u{e9}, 192.0.2.1"], "192.0.2.1"),
            (&["\", 192.0.2.1, 10.0.0.9"], "192.0.2.1"),
            (&["192.0.2.1:"], "10.0.0.1"),
            (&["192.0.2.1:99999"], "10.0.0.1"),
            (&["192.0.2.1x"], "10.0.0.1"),
            (&["[192.0.2.1]"], "10.0.0.1"),
            (&["192.0.2.1 10.0.0.9"], "10.0.0.1"),
            (&["unknown"], "10.0.0.1"),
            (&["192.0.2.1, unknown, 10.0.0.9"], "10.0.0.9"),
            (&["::1%eth0"], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(resolve_lines("x-forwarded-for", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn schemes() {
        for (element, https) in [
            (&b"for=192.0.2.1;proto=https"[..], Some(true)),
            (b"proto=HTTP;for=192.0.2.1", Some(false)),
            (b"for=192.0.2.1;proto=wss", None),
            (b"for=192.0.2.1;proto=http;proto=https", None),
        ] {
            assert_eq!(forwarded(element).https, https, "{}", element.escape_ascii());
        }
    }

    #[test]
    fn forwarded_elements() {
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
            (&["for=192.0.2.1;host=\"x;for=192.0.2.9\""], "192.0.2.1"),
            (&["host=\"x\\\";for=192.0.2.9\";for=192.0.2.1"], "192.0.2.1"),
            (&["for=\"192.0.2.1\"x"], "10.0.0.1"),
            (&["for=\"192.0.2.1"], "10.0.0.1"),
            (&["for = 192.0.2.1 ; proto = https"], "192.0.2.1"),
            (&["for=\"[2001:db9::1]\", for=10.0.0.9"], "2001:db9::1"),
            (&["for=\"_hidden:80\", for=10.0.0.9"], "10.0.0.9"),
            (&["for=\"[2001:db9::1]:_x\""], "2001:db9::1"),
            (&["for="], "10.0.0.1"),
            (&[";for=192.0.2.1"], "10.0.0.1"),
            (&["\u{e9}, for=192.0.2.1"], "192.0.2.1"),
        ] {
            assert_eq!(resolve_lines("forwarded", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn nothing_before_what_a_proxy_added_changes_it() {
        const PARTS: [&[u8]; 16] = [
            b"\"",
            b"\\",
            b",",
            b";",
            b"for=",
            b"=",
            b"1.1.1.1",
            b"10.0.0.9",
            b"[",
            b"]",
            b":",
            b"\xff",
            b" ",
            b"proto=",
            b"unknown",
            b"_",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut line = Vec::new();
            for _ in 0..12 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                line.extend_from_slice(PARTS[usize::try_from(state % 16).unwrap()]);
            }
            let shown = line.escape_ascii().to_string();
            let added = [&line[..], b", for=192.0.2.1;host=\"a,b;for=c\""].concat();
            let hop = Elements(Some(&added)).next().map(forwarded);
            assert_eq!(hop.and_then(|hop| hop.address), "192.0.2.1".parse().ok(), "{shown}");
            let added = [&line[..], b", 192.0.2.1"].concat();
            let hop = Elements(Some(&added)).next().and_then(parse_node);
            assert_eq!(hop, "192.0.2.1".parse().ok(), "{shown}");
        }
    }
}
