//! The path in its one form: what the policy sees is what the upstream gets.
//!
//! - percent-encoded unreserved characters are decoded, other escapes get upper-case digits
//!   (RFC 3986, 6.2.2), and repeated slashes are merged;
//! - `.` and `..` segments are refused, plain or encoded: browsers and curl resolve them before
//!   sending; so are backslashes, control characters, also encoded, and invalid escapes;
//! - `%2F`, `%5C` and `;` stay, but the path as an upstream would see it that decodes or drops
//!   them must lead to the same route (`alternate`).

/// What became of a path.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Normal {
    /// Nothing to do.
    Same,
    /// Normalised (perhaps to the same), and as a lenient upstream might see it.
    Changed { path: String, alternate: Option<String> },
}

/// Normalises a path; `None` refuses it.
pub(super) fn normalise(path: &str) -> Option<Normal> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return None;
    }
    let suspicious = bytes.iter().any(|byte| matches!(byte, b'%' | b';' | b'\\'))
        || bytes.windows(2).any(|pair| pair == b"//" || pair == b"/.");
    if !suspicious {
        return Some(Normal::Same);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'\\' => return None,
            b'/' if out.ends_with('/') => {}
            b'%' => {
                let [high, low, after @ ..] = rest else {
                    return None;
                };
                rest = after;
                let byte = hex(*high)? << 4 | hex(*low)?;
                if byte < 0x20 || byte == 0x7f {
                    return None;
                }
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push('%');
                    out.push(char::from(high.to_ascii_uppercase()));
                    out.push(char::from(low.to_ascii_uppercase()));
                }
            }
            other => out.push(char::from(*other)),
        }
    }
    let alternate = Some(lenient(&out)).filter(|lenient| *lenient != out);
    let dotted = |path: &str| path.split('/').any(|segment| segment == "." || segment == "..");
    if dotted(&out) || alternate.as_deref().is_some_and(dotted) {
        return None;
    }
    Some(Normal::Changed { path: out, alternate })
}

/// `path` as an upstream sees it that decodes separators, drops parameters and merges slashes.
fn lenient(path: &str) -> String {
    let decoded = path.replace("%2F", "/").replace("%5C", "/");
    let mut out = String::with_capacity(decoded.len());
    for segment in decoded.split('/').skip(1) {
        let segment = segment.split(';').next().unwrap_or_default();
        if !out.ends_with('/') {
            out.push('/');
        }
        out.push_str(segment);
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fuzzing;

    fn path(sent: &str) -> Option<String> {
        Some(match normalise(sent)? {
            Normal::Same => sent.to_owned(),
            Normal::Changed { path, .. } => path,
        })
    }

    #[test]
    fn the_path_is_normalised_once() {
        for (sent, forwarded) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b///c", "/a/b/c"),
            ("/%61dmin/%7euser", "/admin/~user"),
            ("/a%2fb", "/a%2Fb"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a...b/...", "/a...b/..."),
            ("/%25%32%65", "/%252e"),
            ("//evil.test/x", "/evil.test/x"),
        ] {
            assert_eq!(path(sent).as_deref(), Some(forwarded), "{sent}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for sent in [
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/.",
            "/%2e%2e/x",
            "/a/%2E/b",
            "/..%2fetc",
            "/a%5c..%5cb",
            "/..;x/admin",
            "/a%2f..",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/%",
            "/%4",
            "/%zz",
            "/a\\b",
        ] {
            assert_eq!(path(sent), None, "{sent}");
        }
    }

    #[test]
    fn what_is_normal_stays_so_however_it_came_about() {
        const PARTS: [&str; 16] = [
            "/", "//", ".", "..", "%2e", "%2F", "%5c", "%25", ";", "a", "%61", "%", "%zz", "\\",
            "%00", "~",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..50_000 {
            let mut sent = String::from("/");
            for _ in 0..8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                sent.push_str(PARTS[usize::try_from(state % 16).unwrap()]);
            }
            fuzzing::path(&sent.as_bytes()[1..]);
        }
    }
}
