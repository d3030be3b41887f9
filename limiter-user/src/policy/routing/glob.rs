//! One path pattern with wildcards: `*` within a segment, `**` for any number of segments.

use std::cmp::Reverse;

use super::Says;

/// A pattern taken apart. With one `**`, which is what the configuration admits, matching takes
/// time in the length of the path.
#[derive(Debug)]
pub(super) struct Glob {
    /// The text before the first wildcard.
    lead: Box<str>,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Literal(Box<str>),
    /// Texts between the `*` of a segment, in order.
    Part(Vec<Box<str>>),
    One,
    Below,
}

impl Glob {
    /// Of a pattern that begins with `/`.
    pub(super) fn new(text: &str) -> Self {
        let pieces = text.split('/').skip(1).map(|segment| match segment {
            "*" => Piece::One,
            "**" => Piece::Below,
            _ if segment.contains('*') => Piece::Part(segment.split('*').map(Box::from).collect()),
            _ => Piece::Literal(segment.into()),
        });
        let lead = text.split('*').next().unwrap_or_default();
        // Below may be nothing, with its slash.
        let lead =
            if text[lead.len()..].starts_with("**") { lead.trim_end_matches('/') } else { lead };
        Self { lead: lead.into(), pieces: pieces.collect() }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        path.starts_with(&*self.lead)
            && path.strip_prefix('/').is_some_and(|path| follow(&self.pieces, Some(path)))
    }

    pub(super) fn says(&self) -> Vec<Says> {
        let last = self.pieces.len().saturating_sub(1);
        let mut says: Vec<Says> = self
            .pieces
            .iter()
            .enumerate()
            .map(|(at, piece)| match piece {
                Piece::Literal(_) => Says::Literal,
                Piece::Part(texts) => {
                    Says::Part(Reverse(texts.iter().map(|text| text.len()).sum()))
                }
                Piece::One => Says::One,
                Piece::Below if at < last => Says::Below,
                Piece::Below => Says::All,
            })
            .collect();
        if says.last() != Some(&Says::All) {
            says.push(Says::End);
        }
        says
    }
}

/// Whether `pieces` match what is left of a path; `None`: nothing, not even a slash.
fn follow(pieces: &[Piece], path: Option<&str>) -> bool {
    let Some((piece, after)) = pieces.split_first() else {
        return path.is_none();
    };
    if matches!(piece, Piece::Below) {
        if after.is_empty() {
            return true;
        }
        let mut path = path;
        while !follow(after, path) {
            let Some(rest) = path else {
                return false;
            };
            path = rest.split_once('/').map(|(_, rest)| rest);
        }
        return true;
    }
    let Some(path) = path else {
        return false;
    };
    let (segment, rest) = match path.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (path, None),
    };
    let fits = match piece {
        Piece::Literal(text) => **text == *segment,
        Piece::Part(texts) => fits(texts, segment),
        Piece::One => !segment.is_empty(),
        Piece::Below => false,
    };
    fits && follow(after, rest)
}

/// Whether a segment has these texts in order, the first at its beginning, the last at its end.
fn fits(texts: &[Box<str>], segment: &str) -> bool {
    let [first, between @ .., last] = texts else {
        return false;
    };
    let Some(mut rest) = segment.strip_prefix(&**first) else {
        return false;
    };
    for text in between {
        match rest.find(&**text) {
            Some(at) => rest = &rest[at + text.len()..],
            None => return false,
        }
    }
    rest.ends_with(&**last)
}
