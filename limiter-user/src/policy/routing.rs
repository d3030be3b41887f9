//! Which of many host and path patterns a request falls under: the most specific one.
//!
//! In: patterns, as routes have them; out: the index of one of them. Hosts and plain paths are
//! found by binary search, so that many routes cost a request hardly more than few. Never
//! allocates while it looks, and knows neither methods nor what a route requires.

mod glob;

use std::{cmp::Ordering, collections::BTreeMap};

use self::glob::Glob;
use super::http::PathPattern;

/// No name in the DNS is longer.
const MAX_HOST_BYTES: usize = 253;

/// What stands for a wildcard in a witness: no pattern has it by accident.
const STRANGER: &str = "~any~";

/// Patterns, ready to be searched. An exact host goes before a wildcard, the longest wildcard
/// before shorter ones, and any host comes last; a host of which no path matches leaves the request
/// to the next. [`specificity`] orders the paths of one host.
#[derive(Debug, Default)]
pub struct Router {
    /// By lower-case name.
    hosts: Vec<(Box<str>, Paths)>,
    /// By lower-case name, without the `*.`.
    domains: Vec<(Box<str>, Paths)>,
    any: Paths,
}

#[derive(Debug, Default)]
struct Paths {
    /// By path.
    exact: Vec<(Box<str>, usize)>,
    /// By path, without the one of every path: comparing with no text at all is slow (a masked load
    /// of nothing from nowhere).
    prefixes: Vec<Prefix>,
    root: Option<Prefix>,
    /// Most specific first.
    globs: Vec<RankedGlob>,
}

#[derive(Debug)]
struct Prefix {
    /// Without a slash at its end.
    path: Box<str>,
    /// Place of the longest other one that this one begins with.
    parent: Option<usize>,
    rank: usize,
    index: usize,
}

#[derive(Debug)]
struct RankedGlob {
    glob: Glob,
    rank: usize,
    index: usize,
}

impl Router {
    /// Of patterns (host, `None` for any; path), which are known by their position from then on.
    /// Of equal ones the first is kept.
    pub fn new<'a>(patterns: impl IntoIterator<Item = (Option<&'a str>, &'a PathPattern)>) -> Self {
        let mut by_host: BTreeMap<Option<String>, Vec<(&PathPattern, usize)>> = BTreeMap::new();
        for (index, (host, path)) in patterns.into_iter().enumerate() {
            by_host.entry(host.map(str::to_ascii_lowercase)).or_default().push((path, index));
        }
        let mut router = Self::default();
        for (host, patterns) in by_host {
            let paths = Paths::new(patterns);
            match host.as_deref().map(|host| (host, host.strip_prefix("*."))) {
                None => router.any = paths,
                Some((_, Some(domain))) => router.domains.push((domain.into(), paths)),
                Some((host, None)) => router.hosts.push((host.into(), paths)),
            }
        }
        router.domains.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        router
    }

    /// Position of the pattern for a request: `host` without port in any case, `path` normalised.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        if host.len() <= MAX_HOST_BYTES {
            if let Some(found) = named(&self.hosts, host).and_then(|paths| paths.find(path)) {
                return Some(found);
            }
            if !self.domains.is_empty() {
                // From the left, so that the longest domain comes first.
                let found =
                    host.match_indices('.').filter(|(at, _)| *at > 0).find_map(|(at, _)| {
                        named(&self.domains, &host[at + 1..]).and_then(|paths| paths.find(path))
                    });
                if found.is_some() {
                    return found;
                }
            }
        }
        self.any.find(path)
    }
}

fn named<'a>(hosts: &'a [(Box<str>, Paths)], host: &str) -> Option<&'a Paths> {
    let place = hosts.binary_search_by(|(known, _)| {
        known.bytes().cmp(host.bytes().map(|byte| byte.to_ascii_lowercase()))
    });
    place.ok().map(|place| &hosts[place].1)
}

impl Paths {
    fn new(mut patterns: Vec<(&PathPattern, usize)>) -> Self {
        patterns.sort_by(|(one, _), (other, _)| specificity(one, other));
        let mut paths = Self::default();
        for (rank, (pattern, index)) in patterns.into_iter().enumerate() {
            match pattern {
                PathPattern::Exact(path) => paths.exact.push((path.as_str().into(), index)),
                PathPattern::Prefix(path) => paths.prefixes.push(Prefix {
                    path: path.trim_end_matches('/').into(),
                    parent: None,
                    rank,
                    index,
                }),
                PathPattern::Glob(text) => {
                    paths.globs.push(RankedGlob { glob: Glob::new(text), rank, index });
                }
            }
        }
        paths.exact.sort_by(|one, other| one.0.cmp(&other.0));
        paths.exact.dedup_by(|later, first| later.0 == first.0);
        paths.prefixes.sort_by(|one, other| one.path.cmp(&other.path));
        paths.prefixes.dedup_by(|later, first| later.path == first.path);
        if paths.prefixes.first().is_some_and(|prefix| prefix.path.is_empty()) {
            paths.root = Some(paths.prefixes.remove(0));
        }
        for place in 1..paths.prefixes.len() {
            let path = paths.prefixes[place].path.clone();
            // Whatever this one begins with stands before it, the longest last.
            let mut parent = Some(place - 1);
            while let Some(at) = parent
                && !path.starts_with(&*paths.prefixes[at].path)
            {
                parent = paths.prefixes[at].parent;
            }
            paths.prefixes[place].parent = parent;
        }
        paths
    }

    fn find(&self, path: &str) -> Option<usize> {
        if let Ok(at) = self.exact.binary_search_by(|(known, _)| (**known).cmp(path)) {
            return Some(self.exact[at].1);
        }
        let prefix = self.prefix(path);
        let rank = prefix.map_or(usize::MAX, |prefix| prefix.rank);
        let mut before = self.globs.iter().take_while(|glob| glob.rank < rank);
        match before.find(|glob| glob.glob.matches(path)) {
            Some(glob) => Some(glob.index),
            None => prefix.map(|prefix| prefix.index),
        }
    }

    /// The longest prefix of whole segments. Every prefix of `path` is one of the last entry that
    /// does not come after `path`, so that those are all there is to look at.
    fn prefix(&self, path: &str) -> Option<&Prefix> {
        let after = self.prefixes.partition_point(|prefix| *prefix.path <= *path);
        let mut place = after.checked_sub(1);
        while let Some(at) = place {
            let prefix = &self.prefixes[at];
            let rest = path.strip_prefix(&*prefix.path);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                return Some(prefix);
            }
            place = prefix.parent;
        }
        self.root.as_ref().filter(|_| path.starts_with('/'))
    }
}

/// How much a segment of a pattern says, most first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Says {
    /// This text.
    Literal,
    /// Nothing more comes.
    End,
    /// Some of the text, the more the better.
    Part(std::cmp::Reverse<usize>),
    /// That there is one.
    One,
    /// That what follows comes somewhere below.
    Below,
    /// Nothing about what follows.
    All,
}

/// Orders paths, more specific ones first: from the left, segment by segment, a literal goes before
/// one with `*` in it (more literal text first), that before `*`, that before `**` and the end of a
/// prefix. So an exact path goes before all others, and a longer prefix before a shorter one.
pub fn specificity(one: &PathPattern, other: &PathPattern) -> Ordering {
    says(one).cmp(&says(other))
}

fn says(pattern: &PathPattern) -> Vec<Says> {
    let literals = |path: &str| -> Vec<Says> {
        path.split('/').skip(1).filter(|part| !part.is_empty()).map(|_| Says::Literal).collect()
    };
    match pattern {
        PathPattern::Exact(path) => {
            let mut says: Vec<Says> = path.split('/').skip(1).map(|_| Says::Literal).collect();
            says.push(Says::End);
            says
        }
        PathPattern::Prefix(path) => {
            let mut says = literals(path);
            says.push(Says::All);
            says
        }
        PathPattern::Glob(text) => Glob::new(text).says(),
    }
}

/// A host and path of which nothing but a pattern's literal text is like any other pattern. If the
/// router leads it elsewhere, no request can reach the pattern.
pub fn witness(host: Option<&str>, path: &PathPattern) -> (String, String) {
    let host = match host {
        None => format!("{STRANGER}.invalid"),
        Some(host) => match host.strip_prefix("*.") {
            Some(domain) => format!("{STRANGER}.{domain}"),
            None => host.to_owned(),
        },
    };
    let path = match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{}/{STRANGER}", path.trim_end_matches('/')),
        PathPattern::Glob(text) => text.replace("**", STRANGER).replace('*', STRANGER),
    };
    (host, path)
}

#[cfg(test)]
mod tests;
