//! Authentication: which principal a request speaks for.
//!
//! In: the schemes of a route and the request; out: a principal, or the answer that says what was
//! wrong. Every scheme of the route looks at what was presented to it. A credential that is invalid
//! refuses the request even beside a valid one, and so do two that name different principals.

mod api_key;
mod hmac;
mod jwt;
mod mtls;
mod signature;
mod work;

use std::rc::Rc;

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use rustls::pki_types::CertificateDer;

pub(in crate::proxy) use self::api_key::own_bearer;
use crate::{
    credentials::{
        certificate::Names,
        digest::CONTENT_DIGEST,
        replay::{Claims, Fingerprint, NotFirst},
    },
    policy::Mode,
    proxy::{
        compiled::{Compiled, Route},
        compiled_auth::Scheme,
        content::Content,
        identity::Identity,
        proof::Client,
        reply::Reply,
        spelling::take,
        tokens::Tokens,
    },
    refusal::Refusal,
};

/// What schemes look at, beside the body.
#[derive(Debug)]
pub(in crate::proxy) struct Asked<'a> {
    pub(in crate::proxy) policy: &'a Compiled,
    pub(in crate::proxy) route: &'a Route,
    pub(in crate::proxy) parts: &'a Parts,
    pub(in crate::proxy) client: &'a Client,
    /// The client's, verified.
    pub(in crate::proxy) certificate: Option<&'a CertificateDer<'static>>,
    /// Of this core.
    pub(in crate::proxy) tokens: &'a Tokens,
    pub(in crate::proxy) unix_seconds: u64,
    pub(in crate::proxy) now_ns: u64,
    /// Whom that names.
    pub(in crate::proxy) names: Option<&'a Names>,
    /// `http` or `https`, as the client sees it.
    pub(in crate::proxy) url_scheme: &'a str,
}

impl Asked<'_> {
    /// Whether the route accepts API keys.
    fn has_api_keys(&self) -> bool {
        self.route.auth.iter().any(|scheme| self.policy.auth[*scheme].api_keys().is_some())
    }
}

/// The answer of the guard.
pub(in crate::proxy) fn guarded(wait_ns: u64) -> Reply {
    let seconds = wait_ns.div_ceil(1_000_000_000).max(1);
    Reply::refuse(Refusal::Guarded).with(RETRY_AFTER, HeaderValue::from(seconds))
}

/// Whom a request speaks for.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Principal {
    scheme: usize,
    who: Who,
}

#[derive(Clone, Debug)]
enum Who {
    /// A key of the policy: counted nowhere, copied freely.
    Key(usize),
    /// What a credential said that was verified.
    Verified(Rc<Identity>),
}

impl Principal {
    /// One that a scheme vouches for.
    pub(in crate::proxy) fn verified(scheme: usize, identity: Identity) -> Self {
        Self { scheme, who: Who::Verified(Rc::new(identity)) }
    }

    /// Who that is.
    pub(in crate::proxy) fn identity<'a>(&'a self, policy: &'a Compiled) -> &'a Identity {
        match &self.who {
            Who::Key(key) => match policy.auth[self.scheme].identity(*key) {
                Some(identity) => identity,
                None => unreachable!("a key of a scheme without keys"),
            },
            Who::Verified(identity) => identity,
        }
    }

    /// Name of the scheme that knows it.
    pub(in crate::proxy) fn scheme<'a>(&self, policy: &'a Compiled) -> &'a HeaderValue {
        &policy.auth[self.scheme].label
    }
}

/// What one scheme found.
#[derive(Debug)]
enum Presented {
    /// A credential that is not valid, nor ever was.
    Invalid,
    /// One that was valid once, or says so: refused too, but no attempt at anything.
    Lapsed,
    /// As `Lapsed`, and its holder is to know (RFC 6750, 3.1), who can ask for another.
    Expired,
    /// A good one.
    Valid(Principal),
}

/// Where authentication ends.
#[derive(Debug)]
pub(in crate::proxy) enum Authenticated {
    /// The route is public, to who presents nothing at least.
    Public,
    /// A credential says who it is; what it is good for once only is claimed.
    As(Principal, Claims),
    /// No credential that is known here was presented: somebody else is asked.
    Ask {
        /// By this scheme.
        scheme: usize,
        /// What was presented says that it has expired; nobody verified it.
        says_expired: bool,
    },
}

/// Refusals: `MalformedRequest` for a credential header sent twice or one that others could read
/// otherwise, or two different principals; `InvalidCredential`; `Unauthorized` if nothing, or a lapsed
/// credential, was presented.
pub(in crate::proxy) async fn authenticate(
    asked: &Asked<'_>,
    content: &mut Content,
) -> Result<Authenticated, Reply> {
    let route = asked.route;
    if route.auth.is_empty() {
        return Ok(Authenticated::Public);
    }
    if is_repeated(&asked.parts.headers) || is_parted_oddly(&asked.parts.headers) {
        return Err(invalid_request());
    }
    let mut found = Found::default();
    api_key::look_up(asked, &mut found)?;
    jwt::look_up(asked, &mut found).await?;
    mtls::look_up(asked, &mut found);
    // What is dear to check changes nothing once it is clear that something is wrong.
    if !found.invalid {
        signature::look_up(asked, content, &mut found).await?;
    }
    if !found.invalid {
        hmac::look_up(asked, content, &mut found).await?;
    }
    if found.names_nobody()
        && let Some(scheme) = ask(asked)
    {
        return Ok(Authenticated::Ask { scheme, says_expired: found.expired });
    }
    if route.is_open && found.names_nobody() && !found.lapsed {
        return Ok(Authenticated::Public);
    }
    found.verdict()
}

/// The first scheme of the route that asks somebody else.
fn ask(asked: &Asked<'_>) -> Option<usize> {
    let asks = |scheme: &usize| asked.policy.auth[*scheme].forward().is_some();
    asked.route.auth.iter().copied().find(asks)
}

/// Refuses a caller who may not do what the route does.
pub(in crate::proxy) fn allow(
    policy: &Compiled,
    route: &Route,
    principal: Option<&Principal>,
) -> Result<(), Reply> {
    let may = principal.is_some_and(|who| who.identity(policy).may(&route.scopes));
    if may || route.scopes.is_empty() {
        return Ok(());
    }
    let challenge = route.scope_challenge.clone();
    Err(Reply::refuse(Refusal::ForbiddenScope).with(WWW_AUTHENTICATE, challenge))
}

/// Which of two counts is anybody's guess (RFC 6750, 2; RFC 9110, 11.6.2).
fn is_repeated(headers: &HeaderMap) -> bool {
    headers.get_all(AUTHORIZATION).iter().nth(1).is_some()
}

/// Whether somebody could read a credential where there is none by the grammar, which parts a scheme
/// from what follows by spaces alone (RFC 9110, 11.4): tabs and blanks beyond ASCII do so, too, for
/// some servers, and what nobody here took for a token would be one there.
fn is_parted_oddly(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(AUTHORIZATION) else { return false };
    let is_odd = |byte: u8| byte == b'\t' || !byte.is_ascii();
    let from_blank = value.as_bytes().iter().copied().skip_while(|b| *b != b' ' && !is_odd(*b));
    from_blank.take_while(|byte| *byte == b' ' || is_odd(*byte)).any(is_odd)
}

/// What the schemes of a route found so far.
#[derive(Default)]
struct Found {
    /// Whom the credentials of the request name.
    principal: Option<Principal>,
    /// Whom the connection's certificate names, which its client sends whatever it asks for.
    holder: Option<Principal>,
    invalid: bool,
    lapsed: bool,
    expired: bool,
    claims: Claims,
}

impl Found {
    fn add(&mut self, presented: Presented, policy: &Compiled) -> Result<(), Reply> {
        match (presented, &self.principal) {
            (Presented::Invalid, _) => self.invalid = true,
            (Presented::Lapsed, _) => self.lapsed = true,
            (Presented::Expired, _) => (self.lapsed, self.expired) = (true, true),
            (Presented::Valid(new), Some(known))
                if known.identity(policy).name != new.identity(policy).name =>
            {
                return Err(invalid_request());
            }
            (Presented::Valid(new), _) => self.principal = Some(new),
        }
        Ok(())
    }

    /// Whether nothing that was shown says who this is; something may be wrong or over all the same.
    fn names_nobody(&self) -> bool {
        self.principal.is_none() && !self.invalid && (self.holder.is_none() || self.lapsed)
    }

    /// What the request itself says is meant; its certificate counts where it says nothing. Whoever
    /// acts for others by their tokens is not to act in his own name when one has lapsed.
    fn verdict(self) -> Result<Authenticated, Reply> {
        match self {
            Self { invalid: true, .. } => Err(challenge(Refusal::InvalidCredential, true)),
            // Also beside a valid one: the upstream would get it as one that was checked.
            Self { lapsed: false, principal: Some(principal), claims, .. } => {
                Ok(Authenticated::As(principal, claims))
            }
            Self { lapsed: false, holder: Some(holder), claims, .. } => {
                Ok(Authenticated::As(holder, claims))
            }
            Self { expired, .. } => Err(challenge(Refusal::Unauthorized, expired)),
        }
    }
}

/// A good credential that may be used once: claimed, if this is its first time. `message`: by what
/// it is known, all of them.
fn fresh(
    asked: &Asked<'_>,
    found: &mut Found,
    message: &[Fingerprint],
    made: u64,
    principal: Principal,
) -> Result<Presented, Reply> {
    let Some(replays) = &asked.policy.replays else { return Err(Reply::overloaded()) };
    let claimed = match asked.policy.auth[principal.scheme].mode {
        Mode::Enforce => replays.claim(message, made, asked.unix_seconds).map(Some),
        Mode::Monitor => replays.peek(message, made, asked.unix_seconds).map(|()| None),
    };
    match claimed {
        Ok(claim) => {
            if let Some(claim) = claim {
                found.claims.add(claim);
            }
            return Ok(Presented::Valid(principal));
        }
        // Signed before this host began to remember: not the client's doing.
        Err(NotFirst::Unknown) => return Ok(Presented::Lapsed),
        Err(NotFirst::Full) => return Err(Reply::overloaded()),
        Err(NotFirst::Repeated | NotFirst::UnderWay) => {}
    }
    // By other signatures that it has, it must not go on once more.
    _ = found.claims.spend();
    Err(if claimed.is_err_and(|why| why == NotFirst::Repeated) {
        challenge(Refusal::Replayed, true)
    } else {
        // Nobody knows yet whether it may go on.
        Reply::overloaded()
    })
}

/// 401 says how to authenticate (RFC 6750, 3): without a code where nothing was presented.
fn challenge(refusal: Refusal, presented: bool) -> Reply {
    let challenge = if presented {
        "Bearer realm=\"api\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"api\""
    };
    Reply::refuse(refusal).with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// More than one way to present a token at once, or none that is right (RFC 6750, 2 and 3.1).
fn invalid_request() -> Reply {
    let challenge = HeaderValue::from_static("Bearer realm=\"api\", error=\"invalid_request\"");
    Reply::refuse(Refusal::MalformedRequest).with(WWW_AUTHENTICATE, challenge)
}

/// Takes the credentials that are for this host alone, and what only who was asked says, out of what
/// the upstream gets.
pub(in crate::proxy) fn hide(route: &Route, headers: &mut HeaderMap) {
    take(headers, &route.hidden.iter());
    let Some(value) = headers.get(AUTHORIZATION) else { return };
    let is_key = !route.auth.is_empty() && own_bearer(value).is_some();
    if is_key || (route.hides_token && jwt::bearer(value).is_some()) {
        headers.remove(AUTHORIZATION);
    }
}

/// As [`hide`], of trailers: no scheme looks at credentials there, so none are passed on, for whoever
/// takes trailers for a part of the head.
pub(in crate::proxy) fn hide_trailers(policy: &Compiled, route: &Route, trailers: &mut HeaderMap) {
    let schemes = route.schemes(&policy.auth);
    let own = schemes.clone().flat_map(Scheme::own_headers);
    take(trailers, &own.chain(schemes.clone().flat_map(Scheme::copied)));
    if schemes.clone().any(|scheme| scheme.signatures().is_some()) {
        take(trailers, &std::iter::once(&CONTENT_DIGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_parted_from_credentials_by_spaces() {
        let is_odd = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            is_parted_oddly(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
        };
        let odd: [&[u8]; 8] = [
            b"Bearer\ttoken",
            b"Bearer \ttoken",
            b"Bearer\t token",
            b"Basic\tdTpw",
            b"Bearer\xa0token",
            b"Bearer \xc2\xa0token",
            b"Bearer\xe2\x80\x83token",
            b"\tBearer token",
        ];
        for value in odd {
            assert!(is_odd(value), "{}", value.escape_ascii());
        }
        let right: [&[u8]; 7] = [
            b"Bearer token",
            b"Bearer  token",
            b"bearer",
            b"",
            b"Digest username=\"a\",\tnonce=\"b\"",
            b"Digest username=\"\xc3\xa4\"",
            b"abc/def==",
        ];
        for value in right {
            assert!(!is_odd(value), "{}", value.escape_ascii());
        }
        assert!(!is_parted_oddly(&HeaderMap::new()));
    }
}
