//! Untrusted text made safe to stand in a line: ASCII, bounded, one token, unambiguous.
//!
//! Whoever reads the security log (people, terminals, fail2ban) must not be able to mistake what
//! a client sent for a line or a word of ours, so besides control bytes also blanks, quotes and
//! brackets are escaped.

use std::fmt::{self, Write as _};

/// One token: everything but plain ASCII graphics as `\xNN` or `\u{..}`, cut (with `...`) before
/// it would be longer than `max_bytes`.
pub fn token(text: &str, max_bytes: usize) -> impl fmt::Display {
    bounded(text, max_bytes, |c| {
        c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '[' | ']')
    })
}

/// One line: our own sentences, in which only control characters and what is not ASCII is escaped.
pub fn line(text: &str, max_bytes: usize) -> impl fmt::Display {
    bounded(text, max_bytes, |c| c == ' ' || c.is_ascii_graphic())
}

fn bounded(text: &str, max_bytes: usize, plain: impl Fn(char) -> bool) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let mut written = 0;
        let mut escaped = String::new();
        for c in text.chars() {
            escaped.clear();
            if plain(c) {
                escaped.push(c);
            } else if c.is_ascii() {
                write!(escaped, "\\x{:02x}", u32::from(c))?;
            } else {
                write!(escaped, "\\u{{{:x}}}", u32::from(c))?;
            }
            written += escaped.len();
            if written > max_bytes {
                return f.write_str("...");
            }
            f.write_str(&escaped)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_or_confuse_is_escaped() {
        let path = "/a\r\n[2026-01-15] \"WARN\"\\\u{1b}[31m\u{202e}\u{e9}";
        assert_eq!(
            token(path, 256).to_string(),
            r"/a\x0d\x0a\x5b2026-01-15\x5d\x20\x22WARN\x22\x5c\x1b\x5b31m\u{202e}\u{e9}"
        );
        assert_eq!(token("/aaaa", 3).to_string(), "/aa...");
        assert_eq!(token("/a\n", 3).to_string(), "/a...");
        assert_eq!(line("for 10m: \u{7}x", 64).to_string(), r"for 10m: \x07x");
    }

    #[test]
    fn any_text_stays_one_bounded_printable_token() {
        // xorshift: the same texts in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let length = next() % 64;
            let text: String = (0..length)
                .filter_map(|_| {
                    let limit =
                        [0x20, 0x80, 0x100, 0x11_0000][usize::try_from(next() % 4).unwrap()];
                    char::from_u32(u32::try_from(next() % limit).unwrap())
                })
                .collect();
            let max = usize::try_from(next() % 80).unwrap();
            let escaped = token(&text, max).to_string();
            assert!(escaped.len() <= max + 3, "{text:?}");
            assert!(
                escaped
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'[' | b']')),
                "{text:?} became {escaped:?}"
            );
            // Unambiguous: unescaping gives the text back, unless it was cut.
            if !escaped.ends_with("...") {
                assert_eq!(unescape(&escaped), text);
            }
        }
    }

    fn unescape(mut escaped: &str) -> String {
        let mut text = String::new();
        while let Some(at) = escaped.find('\\') {
            text.push_str(&escaped[..at]);
            let (digits, rest) = if let Some(rest) = escaped[at..].strip_prefix("\\u{") {
                rest.split_once('}').unwrap()
            } else {
                escaped[at + 2..].split_at(2)
            };
            text.push(char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap());
            escaped = rest;
        }
        text + escaped
    }
}
