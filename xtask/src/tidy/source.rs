//! Rust text as tokens with their lines, without comments and literals: enough to see what is
//! mentioned, where. Not a parser; what rustc would refuse gives tokens too.

/// A word, `::`, or one character of punctuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
}

impl Token {
    pub(super) fn is_word(&self) -> bool {
        self.text.starts_with(is_word_character)
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) tokens: Vec<Token>,
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

impl Source {
    pub(super) fn read(text: &str) -> Self {
        let characters: Vec<char> = text.chars().collect();
        let mut reader = Reader { characters: &characters, at: 0, line: 1 };
        let mut tokens = Vec::new();
        while let Some(first) = reader.peek(0) {
            let line = reader.line;
            if first.is_whitespace() {
                reader.advance(1);
            } else if first == '/' && reader.peek(1) == Some('/') {
                while reader.peek(0).is_some_and(|character| character != '\n') {
                    reader.advance(1);
                }
            } else if first == '/' && reader.peek(1) == Some('*') {
                reader.skip_block_comment();
            } else if first == '"' {
                reader.skip_string();
            } else if let Some(hashes) = reader.raw_string() {
                reader.skip_raw_string(hashes);
            } else if first == '\'' {
                reader.skip_quote();
            } else if is_word_character(first) {
                let mut word = String::new();
                while let Some(character) = reader.peek(0).filter(|c| is_word_character(*c)) {
                    word.push(character);
                    reader.advance(1);
                }
                // The prefix of a byte or C string is not a word.
                if !(matches!(word.as_str(), "b" | "c")
                    && matches!(reader.peek(0), Some('"' | '\'')))
                {
                    tokens.push(Token { text: word, line });
                }
            } else if first == ':' && reader.peek(1) == Some(':') {
                reader.advance(2);
                tokens.push(Token { text: "::".to_owned(), line });
            } else {
                reader.advance(1);
                tokens.push(Token { text: first.to_string(), line });
            }
        }
        Self { tokens }
    }
}

struct Reader<'text> {
    characters: &'text [char],
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn advance(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == Some('\n') {
                self.line += 1;
            }
            self.at += 1;
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.advance(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.advance(2);
                    if depth == 0 {
                        return;
                    }
                }
                (Some(_), _) => self.advance(1),
                (None, _) => return,
            }
        }
    }

    fn skip_string(&mut self) {
        self.advance(1);
        while let Some(character) = self.peek(0) {
            match character {
                '\\' => self.advance(2),
                '"' => return self.advance(1),
                _ => self.advance(1),
            }
        }
    }

    /// How many `#` a raw string that begins here has; `None` if none begins here.
    fn raw_string(&self) -> Option<usize> {
        if self.at > 0 && is_word_character(self.characters[self.at - 1]) {
            return None;
        }
        let start = match (self.peek(0)?, self.peek(1)) {
            ('r', _) => 1,
            ('b' | 'c', Some('r')) => 2,
            _ => return None,
        };
        let hashes = (start..self.characters.len())
            .take_while(|ahead| self.peek(*ahead) == Some('#'))
            .count();
        (self.peek(start + hashes) == Some('"')).then_some(hashes)
    }

    fn skip_raw_string(&mut self, hashes: usize) {
        while self.peek(0).is_some_and(|character| character != '"') {
            self.advance(1);
        }
        self.advance(1);
        while let Some(character) = self.peek(0) {
            let closed =
                character == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            self.advance(1);
            if closed {
                return self.advance(hashes);
            }
        }
    }

    /// A character literal, or the quote of a lifetime.
    fn skip_quote(&mut self) {
        if self.peek(1) == Some('\\') {
            self.advance(3);
            while self.peek(0).is_some_and(|character| character != '\'') {
                self.advance(1);
            }
            self.advance(1);
        } else if self.peek(2) == Some('\'') {
            self.advance(3);
        } else {
            self.advance(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::read(text).tokens.into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_vanish() {
        assert_eq!(words("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(
            words(r##"x("a \" b", b"c", r#"d " e"#, br"f")"##),
            ["x", "(", ",", ",", ",", ")"]
        );
        assert_eq!(words(r"'a' '\'' '\u{1F600}' b'q' z"), ["z"]);
        assert_eq!(words("&'static str"), ["&", "static", "str"]);
        assert_eq!(words("for x in r#type"), ["for", "x", "in", "r", "#", "type"]);
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let tokens = Source::read("a\n\"x\ny\" /*\n*/ b\n::c").tokens;
        let lines: Vec<(&str, usize)> =
            tokens.iter().map(|token| (token.text.as_str(), token.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 4), ("::", 5), ("c", 5)]);
    }

    #[test]
    fn what_does_not_end_ends_the_file() {
        assert_eq!(words("a \"b"), ["a"]);
        assert_eq!(words("a /* b"), ["a"]);
        assert_eq!(words("a r#\"b\""), ["a"]);
    }
}
