//! Tokens and subjects that are no longer accepted, though their tokens have not expired.
//!
//! In: a file's text, a line for each (`jti ID` or `sub SUBJECT`, `#` begins a comment); out: an
//! answer in constant time.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// Lines of one file.
const MAX_LINES: usize = 1_000_000;

/// One line of the file.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Revoked {
    /// One token, by its `jti`.
    Token(String),
    /// Every token of a subject.
    Subject(String),
}

impl Revoked {
    /// Reads a whole file. The error says in which line what is wrong.
    pub fn read(text: &str) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = match line.split_once(char::is_whitespace) {
                Some(("jti", id)) => Self::Token(id.trim().to_owned()),
                Some(("sub", subject)) => Self::Subject(subject.trim().to_owned()),
                _ => return Err(format!("line {}: write `jti ID` or `sub SUBJECT`", number + 1)),
            };
            if all.len() == MAX_LINES {
                return Err(format!("more than {MAX_LINES} entries"));
            }
            all.push(entry);
        }
        Ok(all)
    }
}

/// A list as the request path asks it.
#[derive(Clone, Debug, Default)]
pub struct RevokedList {
    tokens: HashSet<String>,
    subjects: HashSet<String>,
}

impl RevokedList {
    /// From what was read.
    pub fn new(all: &[Revoked]) -> Self {
        let mut list = Self::default();
        for entry in all {
            match entry {
                Revoked::Token(id) => list.tokens.insert(id.clone()),
                Revoked::Subject(subject) => list.subjects.insert(subject.clone()),
            };
        }
        list
    }

    /// Whether the token with this id, or all of this subject, are on it.
    pub fn has(&self, id: Option<&str>, subject: &str) -> bool {
        self.subjects.contains(subject) || id.is_some_and(|id| self.tokens.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# gone\n\njti a-1\n sub  alice smith \r\nsub\tbob\n";
        let list = RevokedList::new(&Revoked::read(text).unwrap());
        assert!(list.has(Some("a-1"), "carol") && list.has(None, "alice smith"));
        assert!(list.has(None, "bob") && !list.has(None, "alice") && !list.has(Some("bob"), "x"));
        for bad in ["a-1", "jti", "iss x", "JTI a"] {
            assert_eq!(
                Revoked::read(&format!("\n{bad}")).unwrap_err(),
                "line 2: write `jti ID` or `sub SUBJECT`"
            );
        }
    }
}
