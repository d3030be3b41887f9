//! The PROXY protocol (haproxy.org, proxy-protocol.txt, versions 1 and 2): who a trusted proxy says
//! that the client is.
//!
//! In: the first bytes of a connection; out: an address and how many bytes said so. Strict: what is
//! not exactly one header of a TCP connection, or says nothing, is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest header that is read. The protocol would let one have 64 KiB of extensions.
pub(super) const MAX_BYTES: usize = 4096;

/// Longest line of version 1, with its end.
const MAX_LINE_BYTES: usize = 107;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;

/// Extension with a checksum of the header.
const CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    /// The client; `None`: the proxy speaks for itself.
    pub(super) source: Option<IpAddr>,
    /// How long it is.
    pub(super) bytes: usize,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Parsed {
    /// A whole header.
    Whole(Header),
    /// The beginning of one.
    Partial,
    /// None that is accepted.
    Malformed,
}

/// Reads the header that `bytes` begin with.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let compared = bytes.len().min(SIGNATURE.len());
    let parsed = if bytes[..compared] == SIGNATURE[..compared] {
        version_2(bytes)
    } else {
        version_1(bytes)
    };
    match parsed {
        Ok(Some(header)) => Parsed::Whole(header),
        Ok(None) => Parsed::Partial,
        Err(Malformed) => Parsed::Malformed,
    }
}

struct Malformed;

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.
fn version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    const NAME: &[u8] = b"PROXY ";
    let compared = bytes.len().min(NAME.len());
    if bytes[..compared] != NAME[..compared] {
        return Err(Malformed);
    }
    let line = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() == MAX_LINE_BYTES { Err(Malformed) } else { Ok(None) };
    };
    let line = line[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let text = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let fields: Vec<&str> = text.split(' ').collect();
    let [_, family, source, destination, source_port, destination_port] = fields[..] else {
        return Err(Malformed);
    };
    let (source, destination) = match family {
        "TCP4" => (address::<Ipv4Addr>(source)?, address::<Ipv4Addr>(destination)?),
        "TCP6" => (address::<Ipv6Addr>(source)?, address::<Ipv6Addr>(destination)?),
        _ => return Err(Malformed),
    };
    for port in [source_port, destination_port] {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let padded = port.len() > 1 && port.starts_with('0');
        if !digits || padded || port.parse::<u16>().is_err() {
            return Err(Malformed);
        }
    }
    if source.is_unspecified() || destination.is_unspecified() {
        return Err(Malformed);
    }
    Ok(Some(Header { source: Some(source.to_canonical()), bytes: end + 1 }))
}

fn address<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, Malformed> {
    text.parse::<A>().map(Into::into).map_err(|_| Malformed)
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., version_and_command, family_and_protocol, high, low] = *fixed;
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BYTES || version_and_command >> 4 != 2 {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let payload = &header[FIXED_BYTES..];
    let source = match (version_and_command & 0xf, family_and_protocol) {
        // The proxy itself, to see whether somebody is there; what else it says is to be ignored.
        (0, _) => return Ok(Some(Header { source: None, bytes: length })),
        (1, 0x11) => {
            let octets = payload.first_chunk::<12>().ok_or(Malformed)?;
            extensions(header, FIXED_BYTES + octets.len())?;
            let [a, b, c, d, ..] = *octets;
            IpAddr::from([a, b, c, d])
        }
        (1, 0x21) => {
            let octets = payload.first_chunk::<36>().ok_or(Malformed)?;
            extensions(header, FIXED_BYTES + octets.len())?;
            let source = octets.first_chunk::<16>().ok_or(Malformed)?;
            IpAddr::from(*source).to_canonical()
        }
        _ => return Err(Malformed),
    };
    if source.is_unspecified() {
        return Err(Malformed);
    }
    Ok(Some(Header { source: Some(source), bytes: length }))
}

/// Type, length and value, each; a checksum among them must be right.
fn extensions(header: &[u8], begin: usize) -> Result<(), Malformed> {
    let mut at = begin;
    while at < header.len() {
        let [kind, high, low] = *header[at..].first_chunk::<3>().ok_or(Malformed)?;
        let value = at + 3;
        let end = value + usize::from(u16::from_be_bytes([high, low]));
        let found = header.get(value..end).ok_or(Malformed)?;
        if kind == CRC32C {
            let sum = found.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)?;
            if checksum(header, value..end) != sum {
                return Err(Malformed);
            }
        }
        at = end;
    }
    Ok(())
}

/// Castagnoli's CRC (RFC 3720, B.4) of `bytes` with zeros at `blank`. Once per connection at most,
/// so bit by bit.
fn checksum(bytes: &[u8], blank: std::ops::Range<usize>) -> u32 {
    let mut sum = !0_u32;
    for (index, byte) in bytes.iter().enumerate() {
        sum ^= if blank.contains(&index) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Command, IPv4, IPv6, Protocol, Type, Version};

    use super::*;

    fn source(bytes: &[u8]) -> Option<String> {
        match parse(bytes) {
            Parsed::Whole(header) => {
                assert_eq!(header.bytes, bytes.len());
                Some(header.source.map_or("local".to_owned(), |source| source.to_string()))
            }
            Parsed::Partial => panic!("partial"),
            Parsed::Malformed => None,
        }
    }

    fn built(command: Command, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        let addresses = IPv4::new([192, 0, 2, 1], [198, 51, 100, 1], 1000, 443);
        let mut builder =
            Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        for (kind, value) in tlvs {
            builder = builder.write_tlv(*kind, value).unwrap();
        }
        builder.build().unwrap()
    }

    #[test]
    fn version_1_is_read_exactly() {
        for (line, client) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some("192.0.2.1")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", Some("2001:db8::1")),
            ("PROXY TCP6 ::ffff:192.0.2.9 ::1 1 2\r\n", Some("192.0.2.9")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n", None),
            ("PROXY TCP4 192.0.2.1  198.51.100.1 1 443\r\n", None),
            ("PROXY TCP4 192.0.2.01 198.51.100.1 1 443\r\n", None),
            ("PROXY TCP4 2001:db8::1 198.51.100.1 1 443\r\n", None),
            ("PROXY TCP4 0.0.0.0 198.51.100.1 1 443\r\n", None),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 443 \r\n", None),
            ("proxy TCP4 192.0.2.1 198.51.100.1 1 443\r\n", None),
            ("GET / HTTP/1.1\r\n", None),
        ] {
            assert_eq!(source(line.as_bytes()).as_deref(), client, "{line:?}");
        }
        let long = format!("PROXY TCP4 {}", "1".repeat(MAX_LINE_BYTES));
        assert_eq!(parse(long.as_bytes()), Parsed::Malformed);
    }

    #[test]
    fn every_beginning_of_a_header_is_partial() {
        let version_1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec();
        for whole in [version_1, built(Command::Proxy, &[(Type::NoOp as u8, b"abc")])] {
            for length in 0..whole.len() {
                assert_eq!(parse(&whole[..length]), Parsed::Partial, "{length}");
            }
            let with_more = [&whole[..], b"GET /"].concat();
            let Parsed::Whole(header) = parse(&with_more) else { panic!() };
            assert_eq!(header.bytes, whole.len());
        }
    }

    #[test]
    fn version_2_is_read_as_another_writes_it() {
        assert_eq!(source(&built(Command::Proxy, &[])).as_deref(), Some("192.0.2.1"));
        assert_eq!(source(&built(Command::Local, &[])).as_deref(), Some("local"));
        let addresses = IPv6::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], [1; 8], 1, 2);
        let six =
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses);
        assert_eq!(source(&six.build().unwrap()).as_deref(), Some("2001:db8::7"));
        let datagram =
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Datagram, addresses);
        assert_eq!(source(&datagram.build().unwrap()), None);
        let mut unspecified = built(Command::Proxy, &[]);
        unspecified[13] = 0;
        assert_eq!(source(&unspecified), None);
        let mut version = built(Command::Proxy, &[]);
        version[12] = 0x31;
        assert_eq!(source(&version), None);
        let mut long = built(Command::Proxy, &[]);
        long[14..16].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(parse(&long), Parsed::Malformed);
    }

    #[test]
    fn extensions_must_fit_and_their_checksum_be_right() {
        let mut header = built(Command::Proxy, &[(CRC32C, &[0; 4])]);
        assert_eq!(source(&header), None);
        let at = header.len() - 4;
        let sum = checksum(&header, at..at + 4);
        header[at..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(source(&header).as_deref(), Some("192.0.2.1"));
        header[17] ^= 1;
        assert_eq!(source(&header), None);
        let mut cut = built(Command::Proxy, &[(Type::NoOp as u8, b"abc")]);
        let length = cut.len();
        cut[length - 4] = 9;
        assert_eq!(source(&cut), None);
        assert_eq!(checksum(b"123456789", 0..0), 0xe306_9283);
    }
}
