//! Bearer tokens of issuers (RFC 6750): recognised by their mark, else taken apart and verified.
//!
//! The order is by cost: a token that was verified before costs its mark and a look-up; one that is
//! not a token, not for here, or out of date is refused before any signature is looked at; and for
//! an address that sent too many bad ones, none is.

use std::rc::Rc;

use http::{
    HeaderValue,
    header::{AUTHORIZATION, RETRY_AFTER},
};

use super::{Asked, Found, Presented, Principal, Who, api_key::KEY_PREFIX, work};
use crate::{
    credentials::jwt::{Claims, Flaw, Token},
    proxy::{
        compiled_jwt::Jwt,
        identity::Identity,
        jwks::Missing,
        reply::Reply,
        tokens::{Known, Mark, TokenKey, mark},
    },
    refusal::Refusal,
};

/// Looks at the bearer token, if the route accepts tokens and one was presented.
pub(super) async fn look_up(asked: &Asked<'_>, found: &mut Found) -> Result<(), Reply> {
    if schemes(asked).next().is_none() {
        return Ok(());
    }
    let Some(token) = asked.parts.headers.get(AUTHORIZATION).and_then(bearer) else {
        return Ok(());
    };
    if asked.parts.uri.query().is_some_and(has_token) {
        return Err(super::invalid_request());
    }
    let is_key = || token.starts_with(KEY_PREFIX) && asked.has_api_keys();
    if is_key() {
        return Ok(());
    }
    let Some(mark) = mark(token) else { return Ok(()) };
    for (scheme, jwt) in schemes(asked) {
        if let Some(presented) = recall(asked, scheme, jwt, (mark, jwt.number), token) {
            return found.add(presented, asked.policy);
        }
    }
    // What is rare is large too: apart, so that the usual future is small.
    match Box::pin(judge(asked, mark, token)).await? {
        Some(presented) => found.add(presented, asked.policy),
        None => Ok(()),
    }
}

/// The token of `Authorization: Bearer`.
pub(super) fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn schemes<'a>(asked: &Asked<'a>) -> impl Iterator<Item = (usize, &'a Jwt)> {
    let policy = asked.policy;
    asked.route.auth.iter().filter_map(|scheme| Some((*scheme, policy.auth[*scheme].jwt()?)))
}

/// What a token is that was verified before; `None`: it was not, or that no longer counts.
fn recall(
    asked: &Asked<'_>,
    scheme: usize,
    jwt: &Jwt,
    key: TokenKey,
    token: &[u8],
) -> Option<Presented> {
    let mut known = asked.tokens.find(&key)?;
    if known.epoch != jwt.epoch() {
        let Some(fresh) = again(asked, scheme, jwt, &known, token) else {
            asked.tokens.remove(&key);
            return None;
        };
        known = Rc::new(fresh);
        asked.tokens.insert(key, Rc::clone(&known));
    }
    Some(match stands(asked, &known.claims) {
        Ok(()) => {
            let who = Who::Verified(Rc::clone(&known.identity));
            Presented::Valid(Principal { scheme, who })
        }
        Err(flaw) => presented(flaw),
    })
}

/// Holds a token against rules, list and keys that changed since it was verified. Its signature
/// still is what it was, if the key that made it still counts.
fn again(
    asked: &Asked<'_>,
    scheme: usize,
    jwt: &Jwt,
    known: &Known,
    token: &[u8],
) -> Option<Known> {
    let epoch = jwt.epoch();
    let token = Token::parse(std::str::from_utf8(token).ok()?).ok()?;
    let claims = jwt.rules.check(&token, asked.unix_seconds).ok()?;
    let (fingerprint, algorithm) = known.signed;
    let counts = jwt.keys_now()?.holds(&fingerprint, algorithm, token.jws().kid());
    if !counts || claims.is_revoked(&jwt.revoked) {
        return None;
    }
    let identity = Rc::new(identity(asked, scheme, &claims)?);
    Some(Known { epoch, signed: known.signed, claims, identity })
}

/// What a token is that nobody has verified yet; `None`: it is none of ours, and somebody else can
/// be asked about it.
async fn judge(asked: &Asked<'_>, mark: Mark, text: &[u8]) -> Result<Option<Presented>, Reply> {
    let is_elsewhere = || super::ask(asked).is_some();
    let token = match std::str::from_utf8(text).map_err(|_| Flaw::Malformed).and_then(Token::parse)
    {
        Ok(token) => token,
        Err(_) if is_elsewhere() && !Token::is_like(text) => return Ok(None),
        Err(flaw) => return Ok(Some(presented(flaw))),
    };
    let is_of =
        |jwt: &Jwt| jwt.rules.issuer.as_deref().is_none_or(|issuer| token.issuer() == Some(issuer));
    let mut last = None;
    for (scheme, jwt) in schemes(asked).filter(|(_, jwt)| is_of(jwt)) {
        match verify(asked, (scheme, jwt), &token, (mark, jwt.number)).await? {
            Ok(known) => {
                let who = Who::Verified(Rc::clone(&known.identity));
                let stands = stands(asked, &known.claims);
                asked.policy.verified.add((mark, jwt.number));
                asked.tokens.insert((mark, jwt.number), Rc::new(known));
                return Ok(Some(match stands {
                    Ok(()) => Presented::Valid(Principal { scheme, who }),
                    Err(flaw) => presented(flaw),
                }));
            }
            Err(flaw) => last = Some(presented(flaw)),
        }
    }
    if last.is_none() && is_elsewhere() {
        return Ok(None);
    }
    Ok(Some(last.unwrap_or(Presented::Invalid)))
}

/// Holds a token against one scheme, its signature last.
async fn verify(
    asked: &Asked<'_>,
    (scheme, jwt): (usize, &Jwt),
    token: &Token<'_>,
    key: TokenKey,
) -> Result<Result<Known, Flaw>, Reply> {
    let claims = match jwt.rules.check(token, asked.unix_seconds) {
        Ok(claims) => claims,
        Err(flaw) => return Ok(Err(flaw)),
    };
    if claims.is_revoked(&jwt.revoked) {
        return Ok(Err(Flaw::Revoked));
    }
    let Some(identity) = identity(asked, scheme, &claims) else {
        return Ok(Err(Flaw::Claim));
    };
    // Another core may know it.
    if !asked.policy.verified.has(&key) {
        work::admit(asked, scheme)?;
    }
    // Before the keys: what is verified with older ones is looked at again.
    let epoch = jwt.epoch();
    let outcome = match jwt.keys_for(token.jws(), asked.now_ns).await {
        Ok(keys) => keys.verify(token.jws()),
        Err(Missing::Unknown) => Err(Flaw::UnknownKey),
        Err(Missing::Unavailable) => return Err(unavailable()),
    };
    if outcome.is_err() {
        work::done_in_vain(asked, scheme);
    }
    Ok(outcome.map(|fingerprint| Known {
        epoch,
        signed: (fingerprint, token.jws().algorithm()),
        claims,
        identity: Rc::new(identity),
    }))
}

/// Whether a verified token is good now, over this connection.
fn stands(asked: &Asked<'_>, claims: &Claims) -> Result<(), Flaw> {
    let certificate = claims.certificate.and(asked.certificate);
    let digest = certificate.map(|certificate| crate::keys::digest(certificate));
    claims.stands(asked.unix_seconds, digest.as_ref())
}

/// Time passes for the best client: neither that nor a clock that is off is an attempt at anything.
fn presented(flaw: Flaw) -> Presented {
    match flaw {
        Flaw::Expired | Flaw::NotYet => Presented::Expired,
        _ => Presented::Invalid,
    }
}

/// `None`: it has a name or a scope that cannot be handed on. Limits and events know the principal
/// by its scheme too: two issuers may each have an `alice`.
fn identity(asked: &Asked<'_>, scheme: usize, claims: &Claims) -> Option<Identity> {
    let label = asked.policy.auth[scheme].label.to_str().ok()?;
    let tier = claims.tier.as_deref().filter(|tier| crate::keys::check_label(tier).is_ok());
    let scopes = claims.scopes.iter().map(|scope| scope.as_str().into());
    let name = format!("{label}:{}", claims.subject);
    let mut identity = Identity::new(&name, tier, scopes).ok()?;
    identity.subject = HeaderValue::from_str(&claims.subject).ok()?;
    Some(identity)
}

/// Whether a query carries a token (RFC 6750, 2.3), which is not read there.
fn has_token(query: &str) -> bool {
    query.split('&').any(|part| part.split('=').next() == Some("access_token"))
}

/// The issuer's keys were never seen: nobody can say who this is.
fn unavailable() -> Reply {
    Reply::refuse(Refusal::UpstreamFailed).with(RETRY_AFTER, HeaderValue::from_static("5"))
}
