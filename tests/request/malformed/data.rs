//! The cases of `tests/data/requests`: text files of requests, byte for byte.

/// A request that is refused.
pub(super) struct Refused {
    pub(super) what: String,
    pub(super) status: u16,
    pub(super) bytes: Vec<u8>,
}

/// A request that is passed on, and what the upstream gets.
pub(super) struct Passed {
    pub(super) what: String,
    pub(super) bytes: Vec<u8>,
    pub(super) upstream: Vec<u8>,
}

pub(super) fn refused() -> Vec<Refused> {
    let lines = lines(include_str!("../../data/requests/refused.txt"));
    let cases = lines.chunks_exact(2).map(|case| {
        let (status, bytes) = case[1].split_once(' ').expect("a status and bytes");
        Refused {
            what: case[0].to_owned(),
            status: status.parse().expect("a status"),
            bytes: unescape(bytes),
        }
    });
    cases.collect()
}

pub(super) fn passed() -> Vec<Passed> {
    let lines = lines(include_str!("../../data/requests/passed.txt"));
    let cases = lines.chunks_exact(3).map(|case| Passed {
        what: case[0].to_owned(),
        bytes: unescape(case[1]),
        upstream: unescape(case[2]),
    });
    cases.collect()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let byte = match (first, rest) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                rest = after;
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                continue;
            }
            (b'\\', [escape, ..]) => match escape {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'\\' => b'\\',
                b'"' => {
                    bytes.push(b'\\');
                    b'"'
                }
                other => panic!("no escape \\{}", char::from(*other)),
            },
            _ => {
                bytes.push(*first);
                continue;
            }
        };
        rest = &rest[1..];
        bytes.push(byte);
    }
    bytes
}
