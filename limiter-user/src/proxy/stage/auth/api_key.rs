//! API keys: hashed, and compared in constant time.
//!
//! A key comes in the header of its scheme, or as `Authorization: Bearer` with our prefix, never in
//! the query.

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderValue, header::AUTHORIZATION};

use super::{Asked, Found, Presented, Principal, Who};
use crate::proxy::{compiled_auth::ApiKeys, reply::Reply};

/// Keys made by `limiter keys` begin with this, which tells them from other bearer tokens.
pub(super) const KEY_PREFIX: &[u8] = b"lk_";

/// Looks up every key that was presented to one of the route's schemes.
pub(super) fn look_up(asked: &Asked<'_>, found: &mut Found) -> Result<(), Reply> {
    let headers = &asked.parts.headers;
    for (_, keys) in schemes(asked) {
        let mut values = headers.get_all(&keys.header).iter();
        if let Some(value) = values.next() {
            if values.next().is_some() {
                return Err(super::invalid_request());
            }
            // A header that two schemes share is looked up in both.
            let of_header = |other: &ApiKeys| other.header == keys.header;
            found.add(judge(asked, value.as_bytes(), of_header), asked.policy)?;
        }
    }
    if schemes(asked).next().is_some()
        && let Some(key) = headers.get(AUTHORIZATION).and_then(own_bearer)
    {
        found.add(judge(asked, key, |_| true), asked.policy)?;
    }
    Ok(())
}

/// The key in `Authorization: Bearer lk_...`; other credentials are somebody else's.
pub(in crate::proxy) fn own_bearer(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    let (scheme, token) = bytes.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let token = token.trim_ascii();
    token.starts_with(KEY_PREFIX).then_some(token)
}

fn schemes<'a>(asked: &Asked<'a>) -> impl Iterator<Item = (usize, &'a ApiKeys)> {
    let policy = asked.policy;
    let keys = |scheme: &usize| Some((*scheme, policy.auth[*scheme].api_keys()?));
    asked.route.auth.iter().filter_map(keys)
}

fn judge(asked: &Asked<'_>, key: &[u8], admits: impl Fn(&ApiKeys) -> bool) -> Presented {
    let Ok(digest): Result<[u8; 32], _> = digest(&SHA256, key).as_ref().try_into() else {
        return Presented::Invalid;
    };
    let known = schemes(asked)
        .filter(|(_, keys)| admits(keys))
        .find_map(|(scheme, keys)| Some((scheme, keys, keys.find(&digest)?)));
    match known {
        None => Presented::Invalid,
        Some((_, keys, key)) if keys.keys[key].expires_unix_seconds <= asked.unix_seconds => {
            Presented::Lapsed
        }
        Some((scheme, _, key)) => Presented::Valid(Principal { scheme, who: Who::Key(key) }),
    }
}
