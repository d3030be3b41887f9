//! Authentication by API key: which principal a request speaks for.
//!
//! In: the schemes of a route and the headers; out: a principal, or what was wrong. A presented
//! credential that is invalid refuses the request even beside a valid one. The key itself is only
//! ever hashed and compared in constant time.

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use crate::{
    proxy::compiled::{Compiled, Key, Route},
    refusal::Refusal,
};

/// Keys made by `limiter keys` begin with this, which tells them from other bearer tokens.
const KEY_PREFIX: &[u8] = b"lk_";

/// Whom a request speaks for: a scheme and one of its keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::proxy) struct Principal {
    pub(in crate::proxy) scheme: usize,
    pub(in crate::proxy) key: usize,
}

impl Principal {
    /// The key's record.
    pub(in crate::proxy) fn record<'a>(&self, policy: &'a Compiled) -> &'a Key {
        &policy.auth[self.scheme].keys[self.key]
    }
}

/// `Ok(None)`: the route is public. Refusals: `MalformedRequest` for a credential header sent
/// twice or two different principals, `InvalidCredential` for an unknown key, `Unauthorized` if
/// nothing, or only an expired key, was presented.
pub(in crate::proxy) fn authenticate(
    policy: &Compiled,
    route: &Route,
    headers: &HeaderMap,
    unix_seconds: u64,
) -> Result<Option<Principal>, Refusal> {
    if route.auth.is_empty() {
        return Ok(None);
    }
    let mut found = Found::default();
    for scheme in &route.auth {
        let mut values = headers.get_all(&policy.auth[*scheme].header).iter();
        if let Some(value) = values.next() {
            if values.next().is_some() {
                return Err(Refusal::MalformedRequest);
            }
            // A header that two schemes share is looked up in both.
            found.present(
                look_up(policy, route, value.as_bytes(), |other| {
                    policy.auth[other].header == policy.auth[*scheme].header
                }),
                policy,
                unix_seconds,
            )?;
        }
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    if let Some(key) = values.next().and_then(own_bearer) {
        found.present(look_up(policy, route, key, |_| true), policy, unix_seconds)?;
    }
    if values.next().is_some() {
        return Err(Refusal::MalformedRequest);
    }
    match found {
        Found { invalid: true, .. } => Err(Refusal::InvalidCredential),
        Found { principal: None, .. } => Err(Refusal::Unauthorized),
        Found { principal, .. } => Ok(principal),
    }
}

/// The key in `Authorization: Bearer lk_...`; other credentials are the upstream's.
pub(in crate::proxy) fn own_bearer(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    let (scheme, token) = bytes.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let token = token.trim_ascii();
    token.starts_with(KEY_PREFIX).then_some(token)
}

#[derive(Default)]
struct Found {
    principal: Option<Principal>,
    invalid: bool,
}

impl Found {
    fn present(
        &mut self,
        found: Option<Principal>,
        policy: &Compiled,
        unix_seconds: u64,
    ) -> Result<(), Refusal> {
        let Some(principal) = found else {
            self.invalid = true;
            return Ok(());
        };
        let record = principal.record(policy);
        if record.expires_unix_seconds <= unix_seconds {
            // Not the client's doing: as if nothing had been presented.
            return Ok(());
        }
        match &self.principal {
            Some(other) if other.record(policy).principal != record.principal => {
                Err(Refusal::MalformedRequest)
            }
            _ => {
                self.principal = Some(principal);
                Ok(())
            }
        }
    }
}

fn look_up(
    policy: &Compiled,
    route: &Route,
    key: &[u8],
    admits: impl Fn(usize) -> bool,
) -> Option<Principal> {
    let digest: [u8; 32] = digest(&SHA256, key).as_ref().try_into().ok()?;
    route.auth.iter().copied().filter(|scheme| admits(*scheme)).find_map(|scheme| {
        let key = policy.auth[scheme].find(&digest)?;
        Some(Principal { scheme, key })
    })
}
