//! A chunked body (RFC 9112, 7.1), followed byte by byte without keeping it.
//!
//! In: its bytes as they come; out: how many of them are its, and whether it has ended. Sizes,
//! extensions and trailers are held to the grammar, without the whitespace in sizes and extensions
//! that it only tolerates; what extensions say is ignored.

use super::head::{has_controls, is_called, split_field};
use crate::refusal::Refusal;

/// Most digits of a size: no parser's integer overflows.
const MAX_DIGITS: u8 = 15;

/// Most bytes of the extensions of a body.
const MAX_EXTENSION_BYTES: usize = 4096;

/// Most bytes of a trailer section.
pub(in crate::proxy) const MAX_TRAILER_BYTES: usize = 8192;

/// Fields that decide about framing, routing and access, and so are never in a trailer (RFC 9110,
/// 6.5.1).
const NEVER_TRAILERS: [&[u8]; 18] = [
    b"transfer-encoding",
    b"content-length",
    b"host",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"expect",
    b"authorization",
    b"proxy-authorization",
    b"cookie",
    b"content-type",
    b"content-encoding",
    b"content-range",
    b"range",
    b"max-forwards",
];

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum At {
    /// Digits of a size.
    #[default]
    Size,
    /// Behind `;`: the first byte of a name.
    Name,
    NameRest,
    /// Behind `=`.
    Value,
    Token,
    Quoted,
    /// Behind a backslash in quotes.
    Escaped,
    /// Behind closing quotes.
    AfterQuotes,
    /// The line feed of a size's line.
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    Trailers,
    Ended,
}

/// Where in the body the next byte is.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk, then what is left of it.
    size: u64,
    digits: u8,
    extension_bytes: usize,
    trailer_bytes: usize,
    /// A line of the trailer section that has not ended.
    line: Vec<u8>,
}

impl Chunks {
    pub(super) fn has_ended(&self) -> bool {
        self.at == At::Ended
    }

    /// How many of `bytes` belong to the body.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut from = 0;
        while from < bytes.len() && !self.has_ended() {
            if self.at == At::Data {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let taken = left.min(bytes.len() - from);
                from += taken;
                // No more than `size`.
                self.size -= taken as u64;
                if self.size == 0 {
                    self.at = At::DataReturn;
                }
            } else {
                self.step(bytes[from])?;
                from += 1;
            }
        }
        Ok(from)
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal::MalformedRequest;
        let is_token = |byte: u8| split_field(&[byte, b':']).is_some();
        self.at = match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() && self.digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                At::Size
            }
            (At::Size, b'\r') if self.digits > 0 => At::SizeEnd,
            (At::Size, b';') if self.digits > 0 => At::Name,
            (At::Name | At::NameRest, _) if is_token(byte) => At::NameRest,
            (At::NameRest, b'=') => At::Value,
            (At::Value, b'"') => At::Quoted,
            (At::Value | At::Token, _) if is_token(byte) => At::Token,
            (At::Quoted, b'\\') => At::Escaped,
            (At::Quoted, b'"') => At::AfterQuotes,
            (At::Quoted | At::Escaped, b'\t' | b' '..=b'~' | 0x80..) => At::Quoted,
            (At::NameRest | At::Token | At::AfterQuotes, b';') => At::Name,
            (At::NameRest | At::Token | At::AfterQuotes, b'\r') => At::SizeEnd,
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.size == 0 { At::Trailers } else { At::Data }
            }
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Size,
            (At::Trailers, _) => self.trailer(byte)?,
            _ => return Err(MALFORMED),
        };
        if matches!(
            self.at,
            At::Name
                | At::NameRest
                | At::Value
                | At::Token
                | At::Quoted
                | At::Escaped
                | At::AfterQuotes
        ) {
            self.extension_bytes += 1;
            if self.extension_bytes > MAX_EXTENSION_BYTES {
                return Err(MALFORMED);
            }
        }
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<At, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > MAX_TRAILER_BYTES {
            return Err(Refusal::HeadTooLarge);
        }
        if byte != b'\n' {
            // What follows a carriage return is a line feed.
            if self.line.last() == Some(&b'\r') {
                return Err(Refusal::MalformedRequest);
            }
            self.line.push(byte);
            return Ok(At::Trailers);
        }
        let line = self.line.strip_suffix(b"\r").ok_or(Refusal::MalformedRequest)?;
        if line.is_empty() {
            self.line = Vec::new();
            return Ok(At::Ended);
        }
        match split_field(line) {
            Some((name, _))
                if !has_controls(line)
                    && !NEVER_TRAILERS.iter().any(|never| is_called(name, never)) =>
            {
                self.line.clear();
                Ok(At::Trailers)
            }
            _ => Err(Refusal::MalformedRequest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At once and byte by byte: the same. How many bytes there were, if it ended.
    fn follow(body: &str) -> Result<Option<usize>, Refusal> {
        let mut chunks = Chunks::default();
        let whole = chunks.follow(body.as_bytes()).map(|end| chunks.has_ended().then_some(end));
        let mut chunks = Chunks::default();
        let mut slow = Ok(None);
        for (count, byte) in body.bytes().enumerate() {
            match chunks.follow(&[byte]) {
                Err(refusal) => slow = Err(refusal),
                Ok(1) if chunks.has_ended() => slow = Ok(Some(count + 1)),
                Ok(_) => continue,
            }
            break;
        }
        assert_eq!(whole, slow, "{body:?}");
        whole
    }

    #[test]
    fn what_the_grammar_allows() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n000\r\n\r\n",
            "00000005\r\nhello\r\n0\r\n\r\n",
            "5;a\r\nhello\r\n0;b=c;d=\"e\\\"; \t\u{e9}\"\r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
            "0\r\nX-Sum: a b\r\nY:\r\n\r\n",
        ] {
            assert_eq!(follow(body), Ok(Some(body.len())), "{body:?}");
            assert_eq!(follow(&format!("{body}GET /")), Ok(Some(body.len())), "{body:?}");
            for end in 0..body.len() {
                if body.is_char_boundary(end) {
                    assert_eq!(follow(&body[..end]), Ok(None), "{body:?} {end}");
                }
            }
        }
    }

    #[test]
    fn what_it_does_not() {
        for body in [
            "\r\n",
            ";a\r\n",
            "x\r\n",
            "0x5\r\nhello\r\n",
            "+5\r\n",
            "-1\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\t;a\r\n",
            "5 ;a\r\n",
            "5; a\r\n",
            "5;\r\n",
            "5;;a\r\n",
            "5;a=\r\n",
            "5;a =b\r\n",
            "5;a=\"b\r\n",
            "5;a=\"b\"c\r\n",
            "5;a[\r\n",
            "5;a\rb\r\n",
            "5;a\nhello",
            "5;\u{e9}\r\n",
            "5\nhello",
            "5\rhello",
            "5\r\nhello0\r\n",
            "5\r\nhello\n0\r\n",
            "5\r\nhello\rX",
            "1,1\r\n",
            "1.0\r\n",
            "5_0\r\n",
            "1111111111111111\r\n",
            "0\r\nX : a\r\n\r\n",
            "0\r\n X: a\r\n\r\n",
            "0\r\nX: a\n\r\n",
            "0\r\nX: a\rb\r\n",
            "0\r\nX: a\r\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n\n",
            "0\r\nContent-Length: 5\r\n\r\n",
            "0\r\ntransfer_encoding: chunked\r\n\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\r\nAuthorization: x\r\n\r\n",
            "0\n\n",
        ] {
            assert_eq!(follow(body), Err(Refusal::MalformedRequest), "{body:?}");
        }
    }

    #[test]
    fn bounds() {
        let extension =
            |bytes: usize| follow(&format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(bytes)));
        assert!(extension(4095).is_ok() && extension(4096).is_err());
        let each = format!("1;{}\r\nx\r\n", "a".repeat(1000)).repeat(5);
        assert_eq!(follow(&each), Err(Refusal::MalformedRequest), "of all chunks together");
        let trailer = |bytes: usize| follow(&format!("0\r\nX:{}\r\n\r\n", "a".repeat(bytes)));
        assert!(trailer(8192 - 6).is_ok());
        assert_eq!(trailer(8192), Err(Refusal::HeadTooLarge));
    }
}
