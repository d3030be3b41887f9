//! Authentication: which principal a request speaks for.
//!
//! In: the schemes of a route and the request; out: a principal, or the answer that says what was
//! wrong. Every scheme of the route looks at what was presented to it. A credential that is invalid
//! refuses the request even beside a valid one, and so do two that name different principals.

mod api_key;

use std::rc::Rc;

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
    request::Parts,
};

pub(in crate::proxy) use self::api_key::own_bearer;
use crate::{
    proxy::{
        compiled::{Compiled, Route},
        content::Content,
        identity::Identity,
        reply::Reply,
    },
    refusal::Refusal,
};

/// What schemes look at, beside the body.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Asked<'a> {
    pub(in crate::proxy) policy: &'a Compiled,
    pub(in crate::proxy) route: &'a Route,
    pub(in crate::proxy) parts: &'a Parts,
    pub(in crate::proxy) unix_seconds: u64,
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
            Who::Key(key) => match policy.auth[self.scheme].api_keys() {
                Some(keys) => &keys.keys[*key].identity,
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
    /// One that was valid once: not the client's doing, as if nothing had been presented.
    Lapsed,
    /// A good one.
    Valid(Principal),
}

/// Where authentication ends.
#[derive(Debug)]
pub(in crate::proxy) enum Authenticated {
    /// The route is public.
    Public,
    /// A credential says who it is.
    As(Principal),
    /// No credential that is known here was presented: the one to ask, by its scheme.
    Ask(usize),
}

/// Refusals: `MalformedRequest` for a credential header sent
/// twice or two different principals, `InvalidCredential`, `Unauthorized` if nothing, or only a
/// lapsed credential, was presented.
pub(in crate::proxy) async fn authenticate(
    asked: &Asked<'_>,
    _content: &mut Content,
) -> Result<Authenticated, Reply> {
    let route = asked.route;
    if route.auth.is_empty() {
        return Ok(Authenticated::Public);
    }
    if is_repeated(&asked.parts.headers) {
        return Err(Refusal::MalformedRequest.into());
    }
    let mut found = Found::default();
    api_key::look_up(asked, &mut found)?;
    if found.is_nothing()
        && let Some(scheme) = ask(asked)
    {
        return Ok(Authenticated::Ask(scheme));
    }
    Ok(Authenticated::As(found.verdict()?))
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

/// What the schemes of a route found so far.
#[derive(Default)]
struct Found {
    principal: Option<Principal>,
    invalid: bool,
}

impl Found {
    fn add(&mut self, presented: Presented, policy: &Compiled) -> Result<(), Reply> {
        match (presented, &self.principal) {
            (Presented::Invalid, _) => self.invalid = true,
            (Presented::Lapsed, _) => {}
            (Presented::Valid(new), Some(known))
                if known.identity(policy).name != new.identity(policy).name =>
            {
                return Err(Refusal::MalformedRequest.into());
            }
            (Presented::Valid(new), _) => self.principal = Some(new),
        }
        Ok(())
    }

    fn is_nothing(&self) -> bool {
        self.principal.is_none() && !self.invalid
    }

    fn verdict(self) -> Result<Principal, Reply> {
        match self {
            Self { invalid: true, .. } => Err(challenge(Refusal::InvalidCredential)),
            Self { principal: None, .. } => Err(challenge(Refusal::Unauthorized)),
            Self { principal: Some(principal), .. } => Ok(principal),
        }
    }
}

/// 401 says how to authenticate (RFC 6750, 3): without a code where nothing was presented.
fn challenge(refusal: Refusal) -> Reply {
    let challenge = match refusal {
        Refusal::InvalidCredential => "Bearer realm=\"api\", error=\"invalid_token\"",
        _ => "Bearer realm=\"api\"",
    };
    Reply::refuse(refusal).with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Takes the credentials that are for this host alone out of what the upstream gets.
pub(in crate::proxy) fn hide(policy: &Compiled, route: &Route, headers: &mut HeaderMap) {
    for scheme in route.auth.iter().map(|scheme| &policy.auth[*scheme]) {
        if scheme.hides
            && let Some(header) = scheme.own_header()
        {
            headers.remove(header);
        }
        // Only who was asked says these.
        for name in scheme.forward().iter().flat_map(|forward| &forward.copied) {
            headers.remove(name);
        }
    }
    if !route.auth.is_empty() && headers.get(AUTHORIZATION).and_then(own_bearer).is_some() {
        headers.remove(AUTHORIZATION);
    }
}
