//! What is wrong with a configuration, said so that it can be put right at once.
//!
//! Checks collect into a [`Report`]; all that was found is shown together, each with file, line,
//! column, key, the line itself and what is allowed. Lines that may hold a secret are masked.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::{
    document::Later,
    locate::{key_path, line_and_column, mask_quoted, masked},
};

/// A configuration that cannot be used; displays as the whole explanation, several lines.
#[derive(Debug)]
pub struct ConfigError {
    rendered: String,
    count: usize,
}

impl ConfigError {
    /// How many things are wrong.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first of them in one line: file, line and column where known, and what is wrong.
    pub fn brief(&self) -> String {
        let mut lines = self.rendered.lines();
        let first = lines.next().unwrap_or_default();
        let what = first.strip_prefix("error: ").unwrap_or(first);
        match lines.next().and_then(|line| line.trim_start().strip_prefix("--> ")) {
            Some(place) => format!("{place}: {what}"),
            None => what.to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

impl std::error::Error for ConfigError {}

/// Something that works as written and may not be what is meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Risk {
    /// Where it comes from: a key path, an environment variable or an option.
    pub key: String,
    /// One sentence.
    pub sentence: String,
}

/// Where something was found.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the file.
    Span(Range<usize>),
    /// Outside: an option, an environment variable, a path.
    Named(String),
}

impl From<Range<usize>> for Place {
    fn from(span: Range<usize>) -> Self {
        Self::Span(span)
    }
}

impl From<&str> for Place {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

/// One thing that is wrong.
struct Problem {
    place: Place,
    message: String,
    help: Option<String>,
}

/// Everything the checks have found so far.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    risks: Vec<(Place, String)>,
}

impl Report {
    /// Records that the value at `place` cannot be used.
    pub(super) fn refuse(&mut self, place: impl Into<Place>, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into(), help: None });
    }

    /// As [`Self::refuse`], with advice.
    pub(super) fn refuse_with(
        &mut self,
        place: impl Into<Place>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let help = Some(help.into());
        self.problems.push(Problem { place: place.into(), message: message.into(), help });
    }

    /// Records that the key at `place` is known and not supported by this version.
    pub(super) fn unsupported(&mut self, place: impl Into<Place>, what: &str, supported: &str) {
        let what = if what.is_empty() { String::new() } else { format!("{what} is ") };
        self.refuse(place, format!("{what}not supported by this version (supported: {supported})"));
    }

    /// Refuses each of these keys that is present.
    pub(super) fn later(&mut self, keys: &[&Option<Later>], supported: &str) {
        for key in keys.iter().filter_map(|key| key.as_ref()) {
            self.unsupported(key.span(), "", supported);
        }
    }

    /// Records something that works and may not be meant.
    pub(super) fn risk(&mut self, place: impl Into<Place>, sentence: impl Into<String>) {
        self.risks.push((place.into(), sentence.into()));
    }

    /// How many things were refused.
    pub(super) fn count(&self) -> usize {
        self.problems.len()
    }

    /// `true` while nothing was refused.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// The risks, or the error if anything was refused.
    pub(super) fn finish(self, file: Option<&Written>) -> Result<Vec<Risk>, ConfigError> {
        if self.problems.is_empty() {
            let name = |place| match place {
                Place::Span(span) => file
                    .and_then(|file| key_path(&file.text, &span))
                    .unwrap_or_else(|| "configuration".to_owned()),
                Place::Named(name) => name,
            };
            return Ok(self
                .risks
                .into_iter()
                .map(|(place, sentence)| Risk { key: name(place), sentence })
                .collect());
        }
        let mut problems = self.problems;
        problems.sort_by_key(|problem| match &problem.place {
            Place::Named(_) => 0,
            Place::Span(span) => span.start,
        });
        let shown = file.map(|file| masked(&file.text));
        let blocks: Vec<String> =
            problems.iter().map(|problem| render(problem, file, shown.as_deref())).collect();
        Err(ConfigError { count: blocks.len(), rendered: blocks.join("\n\n") })
    }
}

/// The file as read.
pub(super) struct Written {
    /// Its path.
    pub(super) path: PathBuf,
    /// Its text.
    pub(super) text: String,
}

/// Says that the file itself cannot be used.
pub(super) fn unreadable(path: &Path, why: impl fmt::Display) -> ConfigError {
    ConfigError { rendered: format!("error: {}: {why}", path.display()), count: 1 }
}

/// Turns an error of the TOML parser or of the document's shape into ours.
pub(super) fn from_toml(error: &toml::de::Error, file: &Written) -> ConfigError {
    let mut report = Report::default();
    let (message, help) = plain_message(error.message());
    // A key that nobody knows may be a secret's under a misspelled name.
    let hidden = Written {
        path: file.path.clone(),
        text: file.text.split_inclusive('\n').map(mask_quoted).collect(),
    };
    let unknown = message.starts_with("unknown key");
    let file = if unknown { &hidden } else { file };
    let span = error.span().unwrap_or(0..0);
    match help {
        Some(help) => report.refuse_with(span, message, help),
        None => report.refuse(span, message),
    }
    match report.finish(Some(file)) {
        Err(error) => error,
        Ok(_) => unreadable(&file.path, "cannot be read"),
    }
}

/// The parser's words in ours: no Rust type names, and the nearest of the allowed keys.
fn plain_message(message: &str) -> (String, Option<String>) {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let found = quoted.next().unwrap_or_default().to_owned();
        let mut allowed: Vec<&str> = quoted.collect();
        allowed.sort_by_key(|name| distance(&found, name));
        let near: Vec<_> = allowed
            .iter()
            .filter(|name| 5 * distance(&found, name) <= 2 * name.len().max(found.len()))
            .take(3)
            .map(|name| format!("`{name}`"))
            .collect();
        allowed.sort_unstable();
        let help = if near.is_empty() {
            format!("allowed here: {}", allowed.join(", "))
        } else {
            format!("did you mean {}?", near.join(" or "))
        };
        return (format!("unknown key `{found}`"), Some(help));
    }
    let mut text =
        message.replace("missing field", "missing key").replace("duplicate field", "duplicate key");
    for (theirs, ours) in [
        ("expected i64", "expected an integer"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list"),
        ("invalid type: map", "found a table"),
        ("invalid type: sequence", "found a list"),
        ("invalid type:", "found"),
    ] {
        text = text.replace(theirs, ours);
    }
    if let Some(at) = text.find("expected struct ") {
        text.truncate(at);
        text.push_str("expected a table");
    }
    (text, None)
}

/// Edits (insert, delete, replace) between two names.
pub(super) fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn render(problem: &Problem, file: Option<&Written>, shown: Option<&str>) -> String {
    let span = match (&problem.place, file, shown) {
        (Place::Span(span), Some(file), Some(shown)) => (span, file, shown),
        (Place::Named(name), ..) => return plain(name, problem),
        _ => return plain("configuration", problem),
    };
    let (span, file, shown) = span;
    let title = match key_path(&file.text, span) {
        Some(key) => format!("{key}: {}", problem.message),
        None => problem.message.clone(),
    };
    // One line is enough, and what follows in a long value is not this problem's business.
    let start = shown.floor_char_boundary(span.start.min(shown.len()));
    let line_end = shown[start..].find('\n').map_or(shown.len(), |length| start + length);
    let end = shown.floor_char_boundary(span.end.clamp(start, line_end));
    let path = file.path.display().to_string();
    if shown.is_empty() {
        return format!("{}\n --> {path}:1:1", plain("configuration", problem));
    }
    let snippet = Snippet::source(shown)
        .path(path.as_str())
        .annotation(AnnotationKind::Primary.span(start..end));
    let mut group = Level::ERROR.primary_title(title).element(snippet);
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    let rendered = Renderer::plain().render(&[group]);
    let (line, column) = line_and_column(shown, start);
    debug_assert!(rendered.contains(&format!(":{line}:{column}")), "{rendered}");
    rendered
}

fn plain(name: &str, problem: &Problem) -> String {
    let help = problem.help.as_ref().map(|help| format!("\n  = help: {help}"));
    format!("error: {name}: {}{}", problem.message, help.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        assert_eq!(distance("kitten", "sitting"), 3);
        let (message, help) =
            plain_message("unknown field `max_bodi`, expected one of `max_body`, `path`");
        assert_eq!(message, "unknown key `max_bodi`");
        assert_eq!(help.unwrap(), "did you mean `max_body`?");
        let (_, help) = plain_message("unknown field `zzz`, expected `a` or `b`");
        assert_eq!(help.unwrap(), "allowed here: a, b");
    }
}
