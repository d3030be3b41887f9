//! Whom a request is counted against: what of it makes a client, and how that becomes a number.

use std::net::IpAddr;

use super::hash::{Secret, State};

/// An address as limits see it: IPv4 whole (v4-mapped too), IPv6 by its /64.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AddressKey(u128);

impl AddressKey {
    /// The key of `address`.
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & !u128::from(u64::MAX)),
        }
    }

    /// A number that two keys hardly share, made by `mix` from either half.
    pub fn hash(self, mix: fn(u64) -> u64) -> u64 {
        let [high, low] = self.halves();
        mix(high ^ mix(low))
    }

    /// The same in bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    fn halves(self) -> [u64; 2] {
        let half = |half| u64::try_from(half).unwrap_or_default();
        [half(self.0 >> 64), half(self.0 & u128::from(u64::MAX))]
    }
}

/// Most parts that a key has.
pub const MAX_PARTS: usize = 4;

/// One of what a request is counted by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// The client's address.
    Address(AddressKey),
    /// An authenticated principal.
    Principal(&'a str),
    /// The route.
    Route(&'a str),
    /// The value of a header field; `None`: there is none, which all such requests share.
    Header(Option<&'a [u8]>),
    /// A scheme of authentication.
    Scheme(&'a [u8]),
}

/// All that a request is counted by, in the order of the policy.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    parts: [Part<'a>; MAX_PARTS],
    length: usize,
}

impl<'a> Key<'a> {
    /// A client address alone.
    pub const fn address(address: AddressKey) -> Self {
        Self { parts: [Part::Address(address); MAX_PARTS], length: 1 }
    }

    /// These; those beyond [`MAX_PARTS`] are left out.
    pub fn new(parts: impl IntoIterator<Item = Part<'a>>) -> Self {
        let mut key = Self { parts: [Part::Header(None); MAX_PARTS], length: 0 };
        for part in parts.into_iter().take(MAX_PARTS) {
            key.parts[key.length] = part;
            key.length += 1;
        }
        key
    }

    /// A number that nobody without the secret can choose, another one for each limit.
    pub(super) fn hash(&self, secret: Secret, limit: u64) -> u64 {
        let mut state = State::new(secret);
        state.take(limit);
        self.write(&mut state);
        state.finish()
    }

    /// Bytes that tell it from every other key, the same on every host.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        self.write(&mut bytes);
        bytes
    }

    /// What kind each part is of, and where it ends, is written here and nowhere else: hosts and
    /// versions that count together agree on it.
    fn write(&self, out: &mut impl Sink) {
        for part in &self.parts[..self.length] {
            match part {
                Part::Address(address) => out.address(0, *address),
                Part::Principal(name) => out.text(1, name.as_bytes()),
                Part::Route(name) => out.text(2, name.as_bytes()),
                Part::Header(Some(value)) => out.text(3, value),
                Part::Header(None) => out.nothing(4),
                Part::Scheme(name) => out.text(5, name),
            }
        }
    }
}

/// What the parts of a key are written to.
trait Sink {
    fn address(&mut self, kind: u8, address: AddressKey);
    fn text(&mut self, kind: u8, text: &[u8]);
    fn nothing(&mut self, kind: u8);
}

impl Sink for State {
    fn address(&mut self, kind: u8, address: AddressKey) {
        self.take(kind.into());
        for half in address.halves() {
            self.take(half);
        }
    }

    fn text(&mut self, kind: u8, text: &[u8]) {
        self.take_bytes(kind.into(), text);
    }

    fn nothing(&mut self, kind: u8) {
        self.take(kind.into());
    }
}

impl Sink for Vec<u8> {
    fn address(&mut self, kind: u8, address: AddressKey) {
        self.push(kind);
        self.extend(address.bytes());
    }

    fn text(&mut self, kind: u8, text: &[u8]) {
        self.push(kind);
        self.extend((text.len() as u64).to_le_bytes());
        self.extend(text);
    }

    fn nothing(&mut self, kind: u8) {
        self.text(kind, &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ipv6_counts_by_its_64_and_mapped_addresses_as_ipv4() {
        let one = AddressKey::new("2001:db8:0:1::1".parse().unwrap());
        assert_eq!(one, AddressKey::new("2001:db8:0:1:ffff::2".parse().unwrap()));
        assert_ne!(one, AddressKey::new("2001:db8:0:2::1".parse().unwrap()));
        let mapped = AddressKey::new("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(mapped, AddressKey::new("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn keys_are_told_apart_by_what_their_parts_are_and_where_they_end() {
        let address = Part::Address(AddressKey::new("192.0.2.1".parse().unwrap()));
        let keys: [&[Part<'_>]; 13] = [
            &[],
            &[address],
            &[address, address],
            &[Part::Principal("ab"), Part::Principal("c")],
            &[Part::Principal("a"), Part::Principal("bc")],
            &[Part::Principal("abc")],
            &[Part::Route("abc")],
            &[Part::Header(Some(b"abc"))],
            &[Part::Header(Some(b""))],
            &[Part::Header(None)],
            &[Part::Scheme(b"abc")],
            &[Part::Route("abc"), address],
            &[address, Part::Route("abc")],
        ];
        let secret = Secret::new([1, 2]);
        let hash =
            |limit| move |parts: &&[Part<'_>]| Key::new(parts.iter().copied()).hash(secret, limit);
        let hashes: HashSet<u64> =
            keys.iter().map(hash(7)).chain(keys.iter().map(hash(8))).collect();
        assert_eq!(hashes.len(), 2 * keys.len());
        let bytes: HashSet<Vec<u8>> =
            keys.iter().map(|parts| Key::new(parts.iter().copied()).bytes()).collect();
        assert_eq!(bytes.len(), keys.len());
    }

    #[test]
    fn other_hosts_and_versions_know_a_key_by_the_same_bytes() {
        let address = AddressKey::new("192.0.2.1".parse().unwrap());
        let parts = [Part::Address(address), Part::Route("ab"), Part::Header(None)];
        let route = [&[2, 2, 0, 0, 0, 0, 0, 0, 0], &b"ab"[..]].concat();
        let nothing = [4, 0, 0, 0, 0, 0, 0, 0, 0];
        let address = [&[0; 11][..], &[0xff, 0xff, 192, 0, 2, 1]].concat();
        assert_eq!(Key::new(parts).bytes(), [address, route, nothing.to_vec()].concat());
        assert_eq!(Key::new(parts).hash(Secret::new([1, 2]), 7), HASHED);
    }

    /// What the versions before made of the same key.
    const HASHED: u64 = 0x1753_c8f1_67bb_b7c0;
}
