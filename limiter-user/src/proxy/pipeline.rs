//! The life of a request, top to bottom: admission stage by stage, the upstream, the answer.
//!
//! In: a head that hyper read; out: a response. Nothing reaches an upstream but as [`Cleared`],
//! which only [`admit`] makes. The order of the stages is the order of the lines.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{
    body::{RequestBody, ResponseBody},
    compiled::{Compiled, Route},
    content::Content,
    core::{Core, InForce},
    exchange::Exchange,
    forward_auth, limiting,
    once::Once,
    proof::{Client, Grant, Target, X_REQUEST_ID},
    registry::Connection,
    reply::Reply,
    stage::{
        address,
        auth::{self, Authenticated},
        bans, client_address, cors, guard, media_type, redirect, route, target, trace, transform,
    },
    upstream,
    watch::Watch,
};
use crate::{credentials::replay::Claims, policy::Mode, refusal::Refusal};

/// A request that passed every stage, as its upstream gets it.
#[derive(Debug)]
pub(super) struct Cleared {
    request: Request<RequestBody>,
    upstream: usize,
    /// What it asks to go on in.
    protocol: Option<HeaderValue>,
    /// What of it goes on once only.
    once: Once,
}

impl Cleared {
    /// The request, the index of its upstream, the protocol that it asks to go on in, and what is
    /// used up when it goes on.
    pub(super) fn into_request(self) -> (Request<RequestBody>, usize, Option<HeaderValue>, Once) {
        (self.request, self.upstream, self.protocol, self.once)
    }
}

/// An answer that may be waited for. What waits is on the heap: hyper moves this about.
pub(super) enum Answering {
    /// Under way.
    Working(Pin<Box<dyn Future<Output = Response<ResponseBody>>>>),
    /// There is no policy to answer by.
    Never,
}

impl Future for Answering {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Working(response) => response.as_mut().poll(context).map(Ok),
            Self::Never => Poll::Pending,
        }
    }
}

/// Answers one request, whose deadlines are kept by `watch`.
pub(super) fn handle(
    core: &Rc<Core>,
    connection: &Rc<Connection>,
    watch: Rc<Watch>,
    in_force: Rc<InForce>,
    request: Request<Incoming>,
) -> Answering {
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(core, connection, watch, in_force, &parts);
    Answering::Working(Box::pin(async move {
        let outcome = match admit(&mut exchange, &mut parts, body).await {
            Ok(cleared) => upstream::send(&mut exchange, cleared).await,
            Err(reply) => Err(reply),
        };
        // Before the client hears of it, who may send the same again at once.
        exchange.give_back();
        let response = outcome.unwrap_or_else(|reply| exchange.reply(reply, parts.headers));
        exchange.follow(response)
    }))
}

/// Takes the head out of `parts` only if the request is cleared. Waits only in stages that say so.
async fn admit(
    exchange: &mut Exchange,
    parts: &mut Parts,
    body: Incoming,
) -> Result<Cleared, Reply> {
    let in_force = Rc::clone(&exchange.in_force);
    let policy = &*in_force.policy;
    let now_ns = exchange.now_ns;

    if exchange.core.is_full(policy.bounds.max_requests) {
        return Err(Reply::overloaded());
    }
    // HTTP/1 is counted by the framing.
    if parts.headers.len() > policy.bounds.max_headers
        || (parts.version == Version::HTTP_2 && list_bytes(parts) > policy.bounds.max_header_bytes)
    {
        return Err(Refusal::HeadTooLarge.into());
    }
    let target = target::check(parts, exchange.connection.scheme())?;
    let who = (exchange.peer(), exchange.connection.source());
    let client = client_address::resolve(policy, who, &parts.headers);
    exchange.client = Some(client);
    bans::check(&exchange.core.bans.borrow(), &client, now_ns)?;
    if let Some(redirect) = exchange.connection.listener().redirect {
        return Err(redirect::answer(policy, redirect, &target, (parts, !body.is_end_stream())));
    }
    if is_misdirected(&exchange.connection, &target) {
        return Err(Refusal::Misdirected.into());
    }
    if target.path() == "*" {
        return Err(Reply::empty());
    }
    let index = route::select(policy, &target, &parts.method)?;
    let route = &policy.routes[index];
    exchange.route = Some(index);
    if let Some(cors) = route.cors.map(|index| &policy.cors[index]) {
        exchange.grant = cors::grant(cors, &parts.headers);
        address::by_route(route, &client)?;
        if let Some(refusal) = cors::violation(cors, &target, &parts.headers) {
            if cors.mode == Mode::Enforce {
                exchange.grant = Grant::Vary;
            }
            exchange.enforce(cors.mode, refusal)?;
        }
        if target.preflight.is_some() || cors::answers_options(policy, &parts.method) {
            return Err(cors::answer(cors));
        }
    } else {
        address::by_route(route, &client)?;
    }
    let is_without_body = body.is_end_stream();
    let is_unannounced = transform::is_unannounced(&parts.method, &body);
    let mut content = Content::Streaming(RequestBody::new(body, exchange));
    // Waits for the body where a scheme signs it.
    let read = (&*parts, &mut content);
    let mut authenticated = authenticate(exchange, policy, route, &client, read).await;
    if let (Ok(()), Some(second)) = (&authenticated, &route.second) {
        // On the heap: few routes have it.
        let read = (&*parts, &mut content);
        authenticated = Box::pin(authenticate(exchange, policy, second, &client, read)).await;
    }
    if let Err(reply) = authenticated {
        return Err(limiting::count_failure(exchange, route, &client, &parts.headers, reply).await);
    }
    if exchange.principal.is_none()
        && !client.trusted
        && exchange.core.sheds_request(policy, client.key, now_ns)
    {
        return Err(Reply::overloaded());
    }
    if !route.limits.is_empty() && !client.trusted {
        limiting::charge(exchange, route, &client, &parts.headers).await?;
        limiting::wait_turn(exchange).await?;
    }
    declared_length(route, &parts.headers)?;
    media_type::check(route, parts, !is_without_body)?;
    let protocol = transform::upgrade(parts, is_without_body);
    edit(exchange, route, &client, &mut parts.headers);
    if is_unannounced {
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut request = Request::new(content.into_body(exchange));
    *request.method_mut() = std::mem::take(&mut parts.method);
    *request.uri_mut() = Uri::from(transform::target(route, target.path_and_query));
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    Ok(Cleared { request, upstream: route.upstream, protocol, once: exchange.once.clone() })
}

/// Size of a head as HTTP/2 counts it (RFC 9113, 10.5.1), with the name of the host once.
fn list_bytes(parts: &Parts) -> usize {
    let path = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    parts.method.as_str().len() + path + fields.sum::<usize>()
}

/// Whether the client asked for another host when it made its TLS connection.
fn is_misdirected(connection: &Connection, target: &Target) -> bool {
    let asked = connection.tls().and_then(|tls| tls.server_name.as_deref());
    asked.is_some_and(|name| !name.eq_ignore_ascii_case(target.host()))
}

/// Edits the headers of an admitted request for its upstream.
fn edit(exchange: &Exchange, route: &Route, client: &Client, headers: &mut HeaderMap) {
    let forwarded = exchange.forwarded_for(client);
    let who = (client, &*forwarded);
    let principal = exchange.principal.as_ref();
    transform::headers(&exchange.in_force.policy, route, headers, who, principal);
    trace::sanitise(headers);
    headers.insert(X_REQUEST_ID, exchange.id().clone());
}

/// The same request once more, without a body, from the head as it was received. `None` if that is
/// not there as a whole.
pub(super) fn again(exchange: &Exchange) -> Option<Request<RequestBody>> {
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri) = exchange.asked();
    parts.headers = reread(&exchange.connection.head())?;
    let target = target::check(&parts, exchange.connection.scheme()).ok()?;
    let route = &exchange.in_force.policy.routes[exchange.route?];
    edit(exchange, route, &exchange.client?, &mut parts.headers);
    let mut request = Request::new(RequestBody::none(exchange));
    *request.method_mut() = parts.method;
    *request.uri_mut() = Uri::from(transform::target(route, target.path_and_query));
    *request.headers_mut() = parts.headers;
    Some(request)
}

/// The fields of a head that was parsed before.
fn reread(head: &[u8]) -> Option<HeaderMap> {
    let line = |line| <[u8]>::strip_suffix(line, b"\r").unwrap_or(line);
    let fields = head.split(|byte| *byte == b'\n').map(line).skip(1);
    let mut headers = HeaderMap::new();
    for field in fields {
        if field.is_empty() {
            return headers.contains_key(HOST).then_some(headers);
        }
        let colon = field.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    None
}

/// Guard and authentication: a failed attempt is charged to the client's budget.
async fn authenticate(
    exchange: &mut Exchange,
    policy: &Compiled,
    route: &Route,
    client: &Client,
    (parts, content): (&Parts, &mut Content),
) -> Result<(), Reply> {
    exchange.asks_token = route.asks_token;
    let connection = Rc::clone(&exchange.connection);
    let https = client.https.unwrap_or_else(|| connection.tls().is_some());
    let core = Rc::clone(&exchange.core);
    let asked = auth::Asked {
        policy,
        route,
        parts,
        client,
        certificate: connection.tls().and_then(|tls| tls.client_certificate.as_ref()),
        names: connection.tls().and_then(|tls| tls.client_names.as_ref()),
        url_scheme: if https { "https" } else { "http" },
        tokens: &core.tokens,
        unix_seconds: exchange.unix_seconds(),
        now_ns: exchange.now_ns,
    };
    let authenticated = auth::authenticate(&asked, content).await;
    let mut is_attempt = false;
    let found = match authenticated {
        Ok(Authenticated::Public) => return Ok(()),
        Ok(Authenticated::As(principal, claims)) => Ok((Some(principal), claims)),
        Ok(Authenticated::Ask { scheme, says_expired }) => {
            let scheme = (scheme, says_expired);
            let word = Box::pin(forward_auth::ask(exchange, route, scheme, client, parts)).await;
            word.map(|principal| (principal, Claims::default())).map_err(|refused| {
                is_attempt = refused.is_attempt;
                refused.reply
            })
        }
        Err(reply) => Err(reply),
    };
    let allowed = found.and_then(|(principal, claims)| {
        // Whoever may not do it is known all the same: to events, and to limits of failures.
        exchange.principal = principal;
        exchange.once.add(claims);
        auth::allow(policy, route, exchange.principal.as_ref())
    });
    let Err(reply) = allowed else { return Ok(()) };
    let enforced = route.auth.iter().any(|scheme| policy.auth[*scheme].mode == Mode::Enforce);
    // What is only watched is no attempt: it does not use up a budget that is enforced elsewhere.
    if (enforced || policy.guard.mode == Mode::Monitor)
        && (is_attempt || reply.refusal() == Some(Refusal::InvalidCredential))
        && let Err(wait_ns) = guard::failed(&policy.guard, client, exchange.now_ns)
    {
        exchange.enforce(policy.guard.mode, auth::guarded(wait_ns))?;
    }
    let mode = if enforced { Mode::Enforce } else { Mode::Monitor };
    exchange.enforce(mode, reply)
}

/// Refuses a body that announces to be too large; one that does not is bounded as it streams.
fn declared_length(route: &Route, headers: &HeaderMap) -> Result<(), Reply> {
    let length =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > route.max_body_bytes => Err(Refusal::BodyTooLarge.into()),
        _ => Ok(()),
    }
}
