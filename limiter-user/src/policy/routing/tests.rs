//! The router against patterns taken one by one.

use super::*;

fn exact(path: &str) -> PathPattern {
    PathPattern::Exact(path.to_owned())
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Prefix(path.to_owned())
}

fn glob(text: &str) -> PathPattern {
    PathPattern::Glob(text.to_owned())
}

fn finds(patterns: &[(Option<&str>, PathPattern)], host: &str, path: &str) -> Option<usize> {
    Router::new(patterns.iter().map(|(host, path)| (*host, path))).find(host, path)
}

fn matches(pattern: &PathPattern, path: &str) -> bool {
    finds(&[(None, pattern.clone())], "a.test", path).is_some()
}

#[test]
fn prefixes_match_whole_segments() {
    for (pattern, path, expected) in [
        ("/", "/", true),
        ("/", "/x/y", true),
        ("/", "*", false),
        ("/api", "/api", true),
        ("/api", "/api/", true),
        ("/api/", "/api", true),
        ("/api", "/api/x", true),
        ("/api", "/apix", false),
        ("/api", "/API", false),
    ] {
        assert_eq!(matches(&prefix(pattern), path), expected, "{pattern} {path}");
    }
    assert!(matches(&exact("/a"), "/a") && !matches(&exact("/a"), "/a/"));
}

#[test]
fn globs_match_within_segments_and_below() {
    for (pattern, path, expected) in [
        ("/*", "/x", true),
        ("/*", "/", false),
        ("/*", "/x/", false),
        ("/*", "*", false),
        ("/a/*/c", "/a/b/c", true),
        ("/a/*/c", "/a//c", false),
        ("/a/*/c", "/a/b/b/c", false),
        ("/v*/x", "/v/x", true),
        ("/v*/x", "/v12/x", true),
        ("/v*/x", "/w1/x", false),
        ("/*.js", "/app.js", true),
        ("/*.js", "/.js", true),
        ("/*.js", "/app.jsx", false),
        ("/a*b*c", "/axxbyyc", true),
        ("/a*b*c", "/abc", true),
        ("/a*b*c", "/acb", false),
        ("/aba*aba", "/aba", false),
        ("/a/**", "/a", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/ab", false),
        ("/a/**/x.pdf", "/a/x.pdf", true),
        ("/a/**/x.pdf", "/a/b/c/x.pdf", true),
        ("/a/**/x.pdf", "/a/b/c/y.pdf", false),
        ("/a/**/*.pdf", "/a/b/y.pdf", true),
        ("/**/x", "/x", true),
        ("/**/x", "/a/x/b", false),
    ] {
        assert_eq!(matches(&glob(pattern), path), expected, "{pattern} {path}");
    }
}

#[test]
fn the_most_specific_host_that_has_the_path_decides() {
    let patterns = [
        (None, prefix("/")),
        (Some("*.example.com"), prefix("/")),
        (Some("*.eu.example.com"), prefix("/api")),
        (Some("a.eu.example.com"), prefix("/api/v1")),
        (Some("example.com"), exact("/")),
    ];
    for (host, path, expected) in [
        ("A.EU.example.COM", "/api/v1/x", 3),
        ("a.eu.example.com", "/api/v2", 2),
        ("b.a.eu.example.com", "/api", 2),
        ("a.eu.example.com", "/", 1),
        ("example.com", "/", 4),
        ("example.com", "/x", 0),
        (".example.com", "/x", 0),
        ("aexample.com", "/x", 0),
        ("", "/x", 0),
    ] {
        assert_eq!(finds(&patterns, host, path), Some(expected), "{host} {path}");
    }
    let long = format!("{}.example.com", "a.".repeat(150));
    assert_eq!(finds(&patterns, &long, "/"), Some(0), "no host is as long");
}

#[test]
fn the_most_specific_path_decides() {
    let patterns = [
        prefix("/"),
        prefix("/api"),
        prefix("/api-x"),
        prefix("/api/v1"),
        exact("/api/v1"),
        glob("/api/*/items"),
        glob("/api/v*/items"),
        glob("/api/*/items/**"),
        glob("/**/*.pdf"),
        glob("/*/health"),
    ]
    .map(|path| (None, path));
    for (path, expected) in [
        ("/", 0),
        ("/apix", 0),
        ("/api", 1),
        ("/api/", 1),
        ("/api/x", 1),
        ("/api-x/y", 2),
        ("/api.x", 0),
        ("/api/v1", 4),
        ("/api/v1/", 3),
        ("/api/v1/items", 3),
        ("/api/v2/items", 6),
        ("/api/x/items", 5),
        ("/api/x/items/1", 7),
        ("/api/a.pdf", 1),
        ("/other/a.pdf", 8),
        ("/other/health", 9),
        ("/api/health", 1),
    ] {
        assert_eq!(finds(&patterns, "a.test", path), Some(expected), "{path}");
    }
}

#[test]
fn many_prefixes_are_found_as_one_by_one() {
    // Names that sort around the slash, as prefixes of each other.
    let names = ["a", "a-", "a.b", "a0", "ab", "b", "a!"];
    let mut patterns = Vec::new();
    for one in names {
        patterns.push(prefix(&format!("/{one}")));
        for other in names {
            patterns.push(prefix(&format!("/{one}/{other}")));
        }
    }
    let router = Router::new(patterns.iter().map(|path| (None, path)));
    let segments = |path: &PathPattern| match path {
        PathPattern::Prefix(path) => path.clone(),
        _ => unreachable!(),
    };
    for first in ["a", "a-", "ab", "abc", "a.", "b"] {
        for rest in ["", "/", "/a", "/a-", "/a/b", "/abc", "/z/a", "-/a"] {
            let path = format!("/{first}{rest}");
            let slow = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| matches(pattern, &path))
                .max_by_key(|(_, pattern)| segments(pattern).len())
                .map(|(index, _)| index);
            assert_eq!(router.find("a.test", &path), slow, "{path}");
        }
    }
}

#[test]
fn every_pattern_has_a_witness_that_leads_to_it() {
    let patterns = [
        (None, prefix("/")),
        (None, prefix("/api")),
        (None, exact("/api")),
        (None, glob("/api/**/x")),
        (None, glob("/a*c/*")),
        (None, glob("/a*/*")),
        (Some("*.example.com"), prefix("/")),
        (Some("example.com"), glob("/*")),
    ];
    let router = Router::new(patterns.iter().map(|(host, path)| (*host, path)));
    for (index, (host, path)) in patterns.iter().enumerate() {
        let (host, path) = witness(*host, path);
        assert_eq!(router.find(&host, &path), Some(index), "{host} {path}");
    }
}
