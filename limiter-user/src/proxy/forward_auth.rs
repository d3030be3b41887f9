//! Authentication by somebody else: a sub-request about each request that no credential known here
//! answers for, as nginx's `auth_request` and Caddy's `forward_auth` make it.
//!
//! In: the head of a request; out: whom the other side says it speaks for, or the answer that it
//! has for the client. Whoever cannot be asked lets nobody in. Answers are never kept: every request
//! that is not [refused for what others cost](toll) is asked about.

mod toll;

use std::pin::{Pin, pin};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{
        CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, SET_COOKIE,
        WWW_AUTHENTICATE,
    },
    request::Parts,
};
use http_body_util::BodyExt as _;

use self::toll::{Blame, Toll};
use super::{
    body::{RequestBody, Source},
    compiled::Route,
    compiled_auth::Forward,
    exchange::Exchange,
    identity::Identity,
    proof::{Client, Principal, X_REQUEST_ID},
    reply::Reply,
    stage::transform::{self, X_FORWARDED_METHOD, X_FORWARDED_URI},
    upstream,
};
use crate::refusal::Refusal;

const X_AUTH_TIER: HeaderName = HeaderName::from_static("x-auth-tier");
const X_AUTH_SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");

/// Bytes of an answer that are handed to the client.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Fields of an answer that are handed to the client.
const HANDED: [HeaderName; 7] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CACHE_CONTROL,
    LOCATION,
    RETRY_AFTER,
    SET_COOKIE,
    WWW_AUTHENTICATE,
];

/// The answer for a client that is not let in.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reply: Reply,
    /// What the client showed counts as a failed attempt.
    pub(super) is_attempt: bool,
}

impl From<Reply> for Refused {
    fn from(reply: Reply) -> Self {
        Self { reply, is_attempt: false }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Reply::from(refusal).into()
    }
}

/// Asks the server of a scheme, if the client has not cost it too much in vain. `Ok(None)`: it lets
/// the request in and names nobody. `says_expired`: what the client shows does, which nobody
/// verified.
pub(super) async fn ask(
    exchange: &Exchange,
    route: &Route,
    (scheme, says_expired): (usize, bool),
    client: &Client,
    parts: &Parts,
) -> Result<Option<Principal>, Refused> {
    let policy = &*exchange.in_force.policy;
    let Some(forward) = policy.auth[scheme].forward() else {
        return Err(Refusal::Unauthorized.into());
    };
    let mut toll = Toll::take(policy, &policy.auth[scheme], client, parts, says_expired)?;
    let question = question(exchange, route, forward, client, parts);
    let answer = answer(exchange, forward, question).await;
    let (head, body) = answer.inspect_err(|_| toll.give_back())?;
    let (refusal, blame) = match head.status {
        status if status.is_success() => {
            let label = &policy.auth[scheme].label;
            let identity = identity(label, forward, &head.headers);
            let identity = identity.inspect_err(|_| toll.give_back())?;
            let principal = identity.map(|identity| Principal::verified(scheme, identity));
            toll.accepted(principal.as_ref());
            return Ok(principal);
        }
        StatusCode::UNAUTHORIZED => match toll.unknown() {
            blame if blame.is_invalid => (Refusal::InvalidCredential, blame),
            blame => (Refusal::Unauthorized, blame),
        },
        StatusCode::FORBIDDEN => (Refusal::ForbiddenScope, toll.forbidden()),
        StatusCode::TOO_MANY_REQUESTS => (Refusal::RateLimited, Blame::default()),
        status if status.is_client_error() || status.is_redirection() => {
            (Refusal::Unauthorized, Blame::default())
        }
        _ => {
            toll.give_back();
            return Err(Refusal::UpstreamFailed.into());
        }
    };
    let handed = HANDED.iter().flat_map(|name| {
        head.headers.get_all(name).iter().map(|value| (name.clone(), value.clone()))
    });
    let reply = Reply::in_words_of(refusal, head.status, handed.collect(), body);
    Err(Refused { reply, is_attempt: blame.is_attempt })
}

/// The whole answer to a question.
async fn answer(
    exchange: &Exchange,
    forward: &Forward,
    question: Request<RequestBody>,
) -> Result<(http::response::Parts, Bytes), Reply> {
    let response = upstream::ask(exchange, forward.upstream, question).await?;
    let (head, source) = response.into_parts();
    Ok((head, read(exchange, source).await?))
}

fn question(
    exchange: &Exchange,
    route: &Route,
    forward: &Forward,
    client: &Client,
    parts: &Parts,
) -> Request<RequestBody> {
    let mut headers = parts.headers.clone();
    transform::about(route, &mut headers, &exchange.forwarded_for(client));
    let asked = |text: &str| {
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    };
    headers.insert(X_FORWARDED_METHOD, asked(parts.method.as_str()));
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    headers.insert(X_FORWARDED_URI, asked(target));
    headers.insert(HOST, forward.host.clone());
    headers.insert(X_REQUEST_ID, exchange.id().clone());
    let mut request = Request::new(RequestBody::none(exchange));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from(forward.target.clone());
    *request.headers_mut() = headers;
    request
}

/// Whom an answer names. A name that cannot be handed on is no name: nobody is let in by it. Limits
/// and events know the principal by its scheme too: whoever registers over there as `partner` is
/// not the `partner` that has a key here.
fn identity(
    label: &HeaderValue,
    forward: &Forward,
    headers: &HeaderMap,
) -> Result<Option<Identity>, Reply> {
    let failed = || Reply::from(Refusal::UpstreamFailed);
    let text = |name: &HeaderName| headers.get(name).map(HeaderValue::to_str).transpose();
    let said: Vec<_> = forward
        .copied
        .iter()
        .flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone())))
        .collect();
    let Some(named) = headers.get(&forward.subject) else {
        return Ok(None);
    };
    let subject = named.to_str().map_err(|_| failed())?;
    let label = label.to_str().map_err(|_| failed())?;
    if subject.is_empty() || subject.len() > 256 {
        return Err(failed());
    }
    let tier = text(&X_AUTH_TIER).map_err(|_| failed())?;
    let scopes = text(&X_AUTH_SCOPES).map_err(|_| failed())?.unwrap_or_default();
    let scopes = scopes.split_ascii_whitespace().map(Box::from);
    let name = format!("{label}:{subject}");
    let mut identity = Identity::new(&name, tier, scopes).map_err(|_| failed())?;
    identity.subject = named.clone();
    // What is copied is said once.
    identity.said.retain(|(name, _)| !forward.copied.contains(name));
    identity.said.extend(said);
    Ok(Some(identity))
}

/// The body of an answer, which frees its connection for the next question.
async fn read(exchange: &Exchange, source: Source) -> Result<Bytes, Reply> {
    let Source::Upstream { body: mut incoming, mut lease, early } = source else {
        return Ok(Bytes::new());
    };
    let limit = exchange.in_force.policy.timeouts.upstream;
    let whole = async {
        let mut body = BytesMut::new();
        let mut next = early.map(|frame| Ok(*frame));
        loop {
            let frame = match next.take() {
                Some(early) => Some(early),
                None => Pin::new(&mut incoming).frame().await,
            };
            let Some(frame) = frame else { break };
            let Some(data) = frame.ok()?.into_data().ok() else { continue };
            if body.len() + data.len() > MAX_ANSWER_BYTES {
                return None;
            }
            body.extend_from_slice(&data);
        }
        Some(body.freeze())
    };
    match exchange.within(limit, pin!(whole)).await {
        Some(Some(body)) => {
            lease.give_back();
            Ok(body)
        }
        Some(None) => Err(Refusal::UpstreamFailed.into()),
        None => Err(Refusal::UpstreamTimeout.into()),
    }
}
