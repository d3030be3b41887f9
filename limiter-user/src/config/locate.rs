//! From a place in the file to the key path a person would write, and to a copy safe to show.

use std::{ffi::OsStr, ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

/// Dotted path of the innermost key or value that covers `span`, e.g. `http.route[1].auth`.
/// `None` where the file cannot be parsed or nothing covers it.
pub(super) fn key_path(source: &str, span: &Range<usize>) -> Option<String> {
    let root = DeTable::parse(source).ok()?;
    let mut best = None;
    search_table(root.get_ref(), "", span, &mut best);
    best.map(|(_, path)| path)
}

/// The best match so far: how many bytes it covers, and its path.
type Best = Option<(usize, String)>;

fn consider(found: &Range<usize>, path: &str, wanted: &Range<usize>, best: &mut Best) {
    let covers = found.start <= wanted.start && wanted.end <= found.end;
    if covers && best.as_ref().is_none_or(|(size, _)| found.len() <= *size) {
        *best = Some((found.len(), path.to_owned()));
    }
}

fn search_table(table: &DeTable<'_>, prefix: &str, wanted: &Range<usize>, best: &mut Best) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        consider(&key.span(), &path, wanted, best);
        consider(&value.span(), &path, wanted, best);
        search_value(value.get_ref(), &path, wanted, best);
    }
}

fn search_value(value: &DeValue<'_>, path: &str, wanted: &Range<usize>, best: &mut Best) {
    match value {
        DeValue::Table(table) => search_table(table, path, wanted, best),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                consider(&item.span(), &path, wanted, best);
                search_value(item.get_ref(), &path, wanted, best);
            }
        }
        _ => {}
    }
}

/// Words that mark a line whose quoted text may be a secret written where it must not be.
const SECRET_WORDS: [&str; 5] = ["token", "secret", "passw", "credential", "digest"];

/// And those of which some are named by a path, and others are what a limit counts by.
const KEY_WORDS: [&str; 2] = ["key =", "key="];

/// The file with everything that may be a secret replaced by `*`, every byte at its place:
/// quoted text on lines about secrets, and what stands before `@` in a URL.
pub(super) fn masked(source: &str) -> String {
    source.split_inclusive('\n').map(masked_line).collect()
}

fn masked_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    if SECRET_WORDS.iter().any(|word| lower.contains(word)) {
        return mask_quoted(line);
    }
    if KEY_WORDS.iter().any(|word| lower.contains(word)) {
        return mask_quoted_unless(line, is_no_key);
    }
    let (Some(scheme), Some(at)) = (line.find("://"), line.rfind('@')) else {
        return line.to_owned();
    };
    let start = scheme + 3;
    if at <= start {
        return line.to_owned();
    }
    let mask = "*".repeat(at - start);
    format!("{}{mask}{}", &line[..start], &line[at..])
}

/// All quoted text replaced by `*`: for lines with keys that nobody knows.
pub(super) fn mask_quoted(line: &str) -> String {
    mask_quoted_unless(line, |_| false)
}

/// Whether a value beside `key` says where a key is, or what requests are counted by.
fn is_no_key(value: &str) -> bool {
    let extension = Path::new(value).extension().and_then(OsStr::to_str).unwrap_or_default();
    matches!(extension, "pem" | "key" | "crt" | "cer" | "der")
        || matches!(value, "client" | "principal" | "route")
        || value.starts_with("header:")
}

fn mask_quoted_unless(line: &str, is_shown: impl Fn(&str) -> bool) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(open) = rest.find(['"', '\'']) {
        let quote = if rest[open..].starts_with('"') { '"' } else { '\'' };
        let (before, quoted) = rest.split_at(open + 1);
        masked.push_str(before);
        let end = quoted.find(quote).unwrap_or(quoted.len());
        let (value, behind) = quoted.split_at(end);
        if is_shown(value) {
            masked.push_str(value);
        } else {
            for character in value.chars() {
                match character {
                    '\n' => masked.push('\n'),
                    _ => masked.extend(std::iter::repeat_n('*', character.len_utf8())),
                }
            }
        }
        rest = behind;
        if let Some(behind) = rest.strip_prefix(quote) {
            masked.push(quote);
            rest = behind;
        }
    }
    masked.push_str(rest);
    masked
}

/// Line and column, both from 1, the column in characters.
pub(super) fn line_and_column(source: &str, offset: usize) -> (usize, usize) {
    let before = &source[..source.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_innermost_key() {
        let source = "[http]\nmax_body = \"2MB\"\n[[http.route]]\npath = \"/\"\n[[http.route]]\n\
                      auth = [\"a\", \"b\"]\n[validate.orders]\nx = 1\n";
        let path = |text: &str| {
            let start = source.find(text).unwrap();
            key_path(source, &(start..start + text.len())).unwrap()
        };
        assert_eq!(path("\"2MB\""), "http.max_body");
        assert_eq!(path("max_body"), "http.max_body");
        assert_eq!(path("\"b\""), "http.route[1].auth[1]");
        assert_eq!(path("[validate.orders]"), "validate.orders");
    }

    #[test]
    fn masks_secrets_and_keeps_places() {
        let source = "token = \"s3crét\"\nurl = \"http://user:pw@host\"\npath = \"/x\"\n";
        let shown = masked(source);
        assert_eq!(shown.len(), source.len());
        assert!(!shown.contains("s3cr") && !shown.contains("pw"));
        assert!(shown.contains("@host") && shown.contains("/x"));
    }

    #[test]
    fn what_is_no_key_is_shown() {
        for (line, shown) in [
            ("key = \"s3cret\"\n", "key = \"******\"\n"),
            ("key='s3cret", "key='******"),
            (
                "x = { certificate = \"a.pem\", key = \"b.key\" }",
                "x = { certificate = \"a.pem\", key = \"b.key\" }",
            ),
            ("key = [\"client\", \"header:X\"]", "key = [\"client\", \"header:X\"]"),
            ("key = \"a.key\" # token", "key = \"*****\" # token"),
        ] {
            assert_eq!(masked(line), shown);
        }
    }

    #[test]
    fn counts_lines_and_columns_from_one() {
        assert_eq!(line_and_column("ab\ncd", 4), (2, 2));
        assert_eq!(line_and_column("", 0), (1, 1));
    }
}
