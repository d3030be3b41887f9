//! What `Host`, `:authority` and an absolute target name: a host and perhaps a port.
//!
//! In: bytes of the head; out: where the host ends, and whether two of them are the same. Stricter
//! than RFC 3986, 3.2.2: no user, no percent-encoding, no sub-delimiters, which no host name has.

use std::net::Ipv6Addr;

/// Longest name (RFC 1035, 2.3.4, with its final dot).
const MAX_NAME_BYTES: usize = 254;

/// Bytes of a label.
const LABEL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        byte += 1;
    }
    table
};

/// Length of the host in `host[:port]`, brackets included; `None` if it is not one.
pub(super) fn host_bytes(value: &[u8]) -> Option<usize> {
    let length = if value.first() == Some(&b'[') {
        let end = value.iter().position(|byte| *byte == b']')?;
        let address = std::str::from_utf8(&value[1..end]).ok()?;
        address.parse::<Ipv6Addr>().ok()?;
        end + 1
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        is_name(&value[..end]).then_some(end)?
    };
    match &value[length..] {
        [] => Some(length),
        [b':', port @ ..] => is_port(port).then_some(length),
        _ => None,
    }
}

/// Whether an authority and a host mean the same place, of which `default_port` may be left out.
pub(super) fn same(one: &[u8], other: &[u8], default_port: &[u8]) -> bool {
    let (Some(one_end), Some(other_end)) = (host_bytes(one), host_bytes(other)) else {
        return false;
    };
    let port = |value: &'_ [u8], end: usize| -> bool {
        value.get(end + 1..).is_none_or(|port| port == default_port)
    };
    one[..one_end].eq_ignore_ascii_case(&other[..other_end])
        && (one[one_end..] == other[other_end..] || (port(one, one_end) && port(other, other_end)))
}

fn is_name(name: &[u8]) -> bool {
    let labels = name.strip_suffix(b".").unwrap_or(name);
    // Between labels is one dot, and there is none around them.
    let mut before = b'.';
    let fine = labels.iter().all(|&byte| {
        let fine = LABEL[usize::from(byte)] || (byte == b'.' && before != b'.');
        before = byte;
        fine
    });
    fine && before != b'.' && name.len() <= MAX_NAME_BYTES
}

fn is_port(digits: &[u8]) -> bool {
    (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, |port, digit| port * 10 + u32::from(digit - b'0')) <= 65_535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (value, host) in [
            ("a.test", "a.test"),
            ("A.test:8080", "A.test"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("a_b.test", "a_b.test"),
            ("a.", "a."),
            ("xn--nxasmq6b", "xn--nxasmq6b"),
            ("a:0", "a"),
        ] {
            assert_eq!(host_bytes(value.as_bytes()), Some(host.len()), "{value}");
        }
        for value in [
            "",
            ".",
            "a b",
            "u@a.test",
            "a.test:",
            "a.test:x",
            "a:123456",
            "a:65536",
            "[::1",
            "[x]",
            ":80",
            "a/b",
            "a?b",
            "a,b",
            "a%00",
            "a..b",
            ".a",
            "[::1]x",
            "[fe80::1%25eth0]",
            "a:+1",
            "\u{e9}",
            "a\t",
        ] {
            assert_eq!(host_bytes(value.as_bytes()), None, "{value}");
        }
        assert!(host_bytes(&[b'a'; 255]).is_none());
    }

    #[test]
    fn the_same_place() {
        for (one, other, expected) in [
            ("a.test", "A.TEST", true),
            ("a.test:80", "a.test", true),
            ("a.test", "a.test:80", true),
            ("a.test:81", "a.test:81", true),
            ("a.test:81", "a.test", false),
            ("a.test", "b.test", false),
            ("[::1]:80", "[::1]", true),
            ("a.test.", "a.test", false),
            ("u@a.test", "u@a.test", false),
        ] {
            assert_eq!(same(one.as_bytes(), other.as_bytes(), b"80"), expected, "{one} {other}");
        }
    }
}
