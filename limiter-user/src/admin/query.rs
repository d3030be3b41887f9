//! Query strings: percent-decoded pairs, each of which must be asked for; nothing is ignored.

use std::str::FromStr;

use super::view::Failure;

/// What is left of a query.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Failure> {
        let pairs =
            query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// The value of `name`, at most one.
    pub(super) fn one(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Failure::invalid(format!("`{name}` is given twice"))),
        }
    }

    /// Every value of `name`, in order.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let (wanted, rest) =
            std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key == name);
        self.0 = rest;
        let wanted: Vec<(String, String)> = wanted;
        wanted.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of `name`, parsed; `expected` says what is allowed.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Failure> {
        self.one(name)?
            .map(|value| value.parse().map_err(|_| mistake(name, &value, expected)))
            .transpose()
    }

    /// Fails if anything was not asked for.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        match self.0.first() {
            Some((name, _)) => Err(Failure::invalid(format!(
                "unknown query parameter `{}`",
                name.escape_default()
            ))),
            None => Ok(()),
        }
    }
}

/// Says what was found and what is allowed.
pub(super) fn mistake(name: &str, value: &str, expected: &str) -> Failure {
    let value: String = value.escape_default().take(80).collect();
    Failure::invalid(format!("`{name}` is `{value}`: expected {expected}"))
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Percent-encodes a value for a query.
pub(super) fn encode(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|half| char::from(DIGITS[usize::from(half)])));
        }
    }
    out
}

fn decode(text: &str) -> Result<String, Failure> {
    let bad = || Failure::invalid("the query is not percent-encoded UTF-8");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                value.and_then(|value| u8::try_from(value).ok()).ok_or_else(bad)?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back_and_nothing_is_ignored() {
        let value = "2001:db8::/32 \u{e9}&=+%";
        let text = format!("source={}&kind=a&kind=b*&x", encode(value));
        let mut query = Query::parse(Some(&text)).unwrap();
        assert_eq!(query.one("source").unwrap().unwrap(), value);
        assert_eq!(query.all("kind"), ["a", "b*"]);
        let failure = query.finish().unwrap_err();
        assert_eq!(failure.message, "unknown query parameter `x`");
        assert!(Query::parse(Some("a=%f")).is_err());
        assert!(Query::parse(Some("a=%ff")).is_err());
        assert!(Query::parse(Some("a=1&a=2")).unwrap().one("a").is_err());
    }
}
