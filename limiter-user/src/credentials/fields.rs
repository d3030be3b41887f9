//! Fields as a whole: all lines of one together, and dictionaries (RFC 9651, 3.2) of them.
//!
//! In: a head; out: values, borrowed where they can be. Of names that come twice the standard takes
//! the last; where it matters who said something, nothing is taken.

use std::{borrow::Cow, collections::HashSet, fmt};

use http::{HeaderMap, HeaderName};
use sfv::{
    Dictionary, KeyRef, Parser,
    visitor::{DictionaryVisitor, EntryVisitor, Ignored},
};

/// All values of a field in one, as RFC 9110, 5.3 combines them; `None`: there is no such field.
pub(super) fn combined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    let first = values.next()?;
    let separator: &[u8] = if name == http::header::COOKIE { b"; " } else { b", " };
    let mut all = Cow::Borrowed(first);
    for value in values {
        let text = all.to_mut();
        text.extend_from_slice(separator);
        text.extend_from_slice(value);
    }
    Some(all)
}

/// A dictionary in which no name comes twice.
pub(super) fn dictionary(value: &[u8]) -> Option<Dictionary> {
    Parser::new(value).parse_dictionary_with_visitor(Names(HashSet::new())).ok()?;
    Parser::new(value).parse().ok()
}

/// The names so far.
struct Names<'de>(HashSet<&'de KeyRef>);

impl<'de> DictionaryVisitor<'de> for Names<'de> {
    type Out = ();
    type Error = Twice;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Twice> {
        if self.0.insert(key) { Ok(Ignored) } else { Err(Twice) }
    }

    fn finish(self) -> Result<(), Twice> {
        Ok(())
    }
}

#[derive(Debug)]
struct Twice;

impl fmt::Display for Twice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name comes twice")
    }
}

impl std::error::Error for Twice {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_comes_twice() {
        assert_eq!(dictionary(b"a=1, b;x=2;x=3, c=(d d)").map(|all| all.len()), Some(3));
        assert_eq!(dictionary(b"").map(|all| all.len()), Some(0));
        for bad in ["a=1, a=1", "a, b, c=(x), a=2", "a=1,", "A=1"] {
            assert_eq!(dictionary(bad.as_bytes()), None, "{bad}");
        }
    }
}
