//! Limits in fields of older drafts of draft-ietf-httpapi-ratelimit-headers.
//!
//! What an ElizaOS server sends and its clients read is draft 06: `RateLimit-Limit`, `-Remaining` and
//! `-Reset` in seconds. It is put into today's fields before ours are added, and the tightest of all
//! back into the older ones after that. `RateLimit` as of draft 07, one dictionary, could not be
//! told from today's list once ours is beside it: it becomes an item of that. Never loosens what
//! was said.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::proxy::reply::decimal;

const OLDER_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const OLDER_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const OLDER_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STANDING: HeaderName = HeaderName::from_static("ratelimit");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Largest sf-integer (RFC 9651, 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Says in today's fields what the server said in the older ones.
pub(in crate::proxy) fn translate(unix_seconds: u64, headers: &mut HeaderMap) {
    let said = (
        number(headers, &OLDER_LIMIT),
        number(headers, &OLDER_REMAINING),
        number(headers, &OLDER_RESET),
    );
    let (Some(limit), Some(remaining), Some(wait)) = said else {
        return;
    };
    say(headers, limit, remaining, wait);
    headers.insert(LIMIT, decimal(limit));
    headers.insert(REMAINING, decimal(remaining));
    headers.insert(RESET, decimal(unix_seconds.saturating_add(wait)));
}

/// Says as an item of today's list what the upstream said as the dictionary of draft 07.
pub(in crate::proxy) fn itemise(headers: &mut HeaderMap) {
    let Some(said) = headers.get(STANDING).and_then(|said| said.to_str().ok()) else { return };
    let member = |name: &str| {
        let mut members = said.split(',').filter_map(|member| member.trim().split_once('='));
        let number = members.find(|(key, _)| *key == name)?.1.parse().ok();
        number.filter(|number: &u64| *number <= MAX_INTEGER)
    };
    let members = (member("limit"), member("remaining"), member("reset"));
    if let (Some(limit), Some(remaining), Some(wait)) = members {
        say(headers, limit, remaining, wait);
    }
}

/// Makes today's fields of what the upstream said, whose window may be in its policy.
fn say(headers: &mut HeaderMap, limit: u64, remaining: u64, wait: u64) {
    let window = headers.get(POLICY).and_then(|policy| window(policy.as_bytes()));
    let window = window.map(|seconds| format!(";w={seconds}")).unwrap_or_default();
    let standing = format!("\"server\";r={remaining};t={wait}");
    for (name, text) in [(POLICY, format!("\"server\";q={limit}{window}")), (STANDING, standing)] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// Says in the older fields what the one limit says for which today's have room.
pub(in crate::proxy) fn repeat(unix_seconds: u64, headers: &mut HeaderMap) {
    let said = (number(headers, &LIMIT), number(headers, &REMAINING), number(headers, &RESET));
    if let (Some(limit), Some(remaining), Some(reset)) = said {
        headers.insert(OLDER_LIMIT, decimal(limit));
        headers.insert(OLDER_REMAINING, decimal(remaining));
        headers.insert(OLDER_RESET, decimal(reset.saturating_sub(unix_seconds)));
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let number: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
    (number <= MAX_INTEGER).then_some(number)
}

/// Of `1000;w=900`.
fn window(policy: &[u8]) -> Option<u64> {
    let text = str::from_utf8(policy).ok()?;
    let seconds = text.split(';').find_map(|part| part.trim().strip_prefix("w="))?;
    seconds.parse().ok().filter(|seconds| *seconds <= MAX_INTEGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(pair).collect()
    }

    #[test]
    fn what_the_server_says_is_kept_in_todays_fields() {
        let mut said = headers(&[
            ("ratelimit-policy", "1000;w=900"),
            ("ratelimit-limit", "1000"),
            ("ratelimit-remaining", "7"),
            ("ratelimit-reset", "42"),
        ]);
        translate(1_700_000_000, &mut said);
        assert_eq!(said["ratelimit-policy"], "\"server\";q=1000;w=900");
        assert_eq!(said["ratelimit"], "\"server\";r=7;t=42");
        assert_eq!(said["x-ratelimit-remaining"], "7");
        assert_eq!(said["x-ratelimit-reset"], "1700000042");
        repeat(1_700_000_000, &mut said);
        assert_eq!(said["ratelimit-limit"], "1000");
        assert_eq!(said["ratelimit-reset"], "42");
    }

    #[test]
    fn a_dictionary_becomes_an_item() {
        let policy = ("ratelimit-policy", "100;w=900");
        let mut said = headers(&[policy, ("ratelimit", "limit=100, remaining=50, reset=30")]);
        itemise(&mut said);
        assert_eq!(said["ratelimit-policy"], "\"server\";q=100;w=900");
        assert_eq!(said["ratelimit"], "\"server\";r=50;t=30");
        for other in ["\"limit\";r=1;t=2", "limit=1, remaining=2", "limit=1,remaining=x,reset=1"] {
            let before = headers(&[policy, ("ratelimit", other)]);
            let mut after = before.clone();
            itemise(&mut after);
            assert_eq!(after, before);
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        for fields in [
            &[("ratelimit-limit", "1000"), ("ratelimit-remaining", "7")][..],
            &[("ratelimit-limit", "many"), ("ratelimit-remaining", "7"), ("ratelimit-reset", "1")],
            &[],
        ] {
            let before = headers(fields);
            let mut after = before.clone();
            translate(1, &mut after);
            repeat(1, &mut after);
            assert_eq!(after, before);
        }
        assert_eq!(window(b"100;w=x"), None);
        assert_eq!(window(b"\"a\";q=5; w=60"), Some(60));
    }
}
