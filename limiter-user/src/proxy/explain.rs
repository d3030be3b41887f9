//! What would happen to a request: the very stages that the pipeline runs, on a head that nobody
//! sent, with limits and budgets as for a client that is seen for the first time.

use std::{
    net::IpAddr,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{HeaderName, HeaderValue, Request, header::HOST};

use super::{
    compiled::Compiled,
    compiled_auth::Scheme,
    content::Content,
    lasting::Lasting,
    shared_store::Stores,
    stage::{
        address,
        auth::{self, Authenticated},
        client_address, cors, route, target, transform,
    },
    tokens::Tokens,
    upstream::Directory,
};
use crate::{
    policy::{HttpPolicy, http::LimitPolicy},
    refusal::Refusal,
};

/// A request that nobody sent.
#[derive(Clone, Debug)]
pub(crate) struct Asked<'a> {
    /// Socket peer.
    pub(crate) peer: IpAddr,
    /// Method, e.g. `GET`.
    pub(crate) method: &'a str,
    /// Target, e.g. `/api/x`.
    pub(crate) target: &'a str,
    /// Header fields; a `Host` is added if there is none.
    pub(crate) headers: &'a [(String, String)],
}

/// What would happen, and by which rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fate {
    /// Why it would be refused; `None`: it would go upstream, or be answered as a preflight.
    pub(crate) refusal: Option<Refusal>,
    /// What decides beside that, if it is not known here.
    pub(crate) depends: Option<Unknown>,
    /// The client address as the policy sees it.
    pub(crate) client: IpAddr,
    /// Sentences, in the order of the stages.
    pub(crate) explanation: Vec<String>,
}

/// What can decide about a request, and is not known before it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unknown {
    /// Its body, which is signed.
    Body,
    /// Keys that its issuer has not published yet, as far as is known here.
    Issuer,
    /// The answer of a server that is asked.
    Server,
}

impl Unknown {
    /// One word for it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Issuer => "issuer",
            Self::Server => "server",
        }
    }
}

/// Runs the stages. `Err`: it is not a request at all, with the reason.
pub(crate) fn explain(
    policy: &HttpPolicy,
    asked: &Asked<'_>,
    unix_seconds: u64,
) -> Result<Fate, String> {
    let mut lasting = Lasting::new(Directory::new(1).0, Stores::new().0);
    let compiled = Compiled::new(policy, &mut lasting)?;
    let mut builder = Request::builder().method(asked.method).uri(asked.target);
    for (name, value) in asked.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("not a header name: {name}"))?;
        let value = HeaderValue::from_str(value).map_err(|_| "not a header value".to_owned())?;
        builder = builder.header(name, value);
    }
    if !asked.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(HOST.as_str())) {
        builder = builder.header(HOST, "localhost");
    }
    let request = builder.body(()).map_err(|error| error.to_string())?;
    let (parts, ()) = request.into_parts();
    let client = client_address::resolve(&compiled, (asked.peer, None), &parts.headers);
    let explanation = Vec::new();
    let mut fate = Fate { refusal: None, depends: None, client: client.address, explanation };
    fate.refusal = stages(&compiled, policy, &parts, &client, unix_seconds, &mut fate).err();
    if let Some(refusal) = fate.refusal {
        let (status, label) = (refusal.status(), refusal.label());
        fate.explanation.push(format!("refused: {status} {label}: {}", refusal.meaning()));
    }
    Ok(fate)
}

/// What a future comes to without waiting for anything.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn stages(
    compiled: &Compiled,
    policy: &HttpPolicy,
    parts: &http::request::Parts,
    client: &client_address::Client,
    unix_seconds: u64,
    fate: &mut Fate,
) -> Result<(), Refusal> {
    let Fate { explanation: told, depends, .. } = fate;
    let refusal = |reply: super::reply::Reply| reply.refusal().unwrap_or(Refusal::MalformedRequest);
    told.push(format!("the client is {}", client.address));
    let target = target::check(parts, "http").map_err(refusal)?;
    let index = route::select(compiled, &target, &parts.method).map_err(refusal)?;
    let (route, written) = (&compiled.routes[index], &policy.routes[index]);
    told.push(format!("route {}", route.name));
    address::by_route(route, client).map_err(refusal)?;
    if let Some(cors) = route.cors.map(|index| &compiled.cors[index]) {
        if let Some(refusal) = cors::violation(cors, &target, &parts.headers) {
            return Err(refusal);
        }
        if target.preflight.is_some() || cors::answers_options(compiled, &parts.method) {
            told.push("a preflight that the policy answers: 204".to_owned());
            return Ok(());
        }
    }
    for route in std::iter::once(route).chain(route.second.as_deref()) {
        let asked = auth::Asked {
            policy: compiled,
            route,
            parts,
            client,
            certificate: None,
            names: None,
            url_scheme: "http",
            tokens: &Tokens::default(),
            unix_seconds,
            now_ns: 0,
        };
        let mut content = Content::Unsent(false);
        let authenticated = at_once(auth::authenticate(&asked, &mut content));
        match authenticated.transpose().map_err(refusal)? {
            Some(Authenticated::Public) => told.push("the route is public".to_owned()),
            Some(Authenticated::As(principal, _)) => {
                let name = &principal.identity(compiled).name;
                told.push(format!("authenticated as {name}"));
                auth::allow(compiled, route, Some(&principal)).map_err(refusal)?;
            }
            Some(Authenticated::Ask { scheme, .. }) => {
                let name = &policy.auth[scheme].name;
                told.push(format!("{name} would be asked, which says who this is, if anybody"));
                *depends = Some(Unknown::Server);
            }
            None if matches!(content, Content::Unsent(true)) => {
                told.push(format!(
                    "{}: if it is not that of the body, this is refused",
                    signed(&asked)
                ));
                *depends = Some(Unknown::Body);
            }
            None => {
                told.push("the token is signed with a key that its issuer is asked for".to_owned());
                *depends = Some(Unknown::Issuer);
            }
        }
    }
    let limits = written.limits.iter().map(|limit| &policy.limits[*limit]);
    told.extend(limits.map(|limit| format!("counted by limit {}{}", limit.name, amounts(limit))));
    let upstream = &policy.upstreams[written.upstream];
    let sent = transform::target(route, target.path_and_query);
    told.push(format!("goes to upstream {} as {}", upstream.name, sent.path()));
    Ok(())
}

/// The signatures that are over a body, and who looks at them.
fn signed(asked: &auth::Asked<'_>) -> String {
    let schemes = asked.route.auth.iter().map(|scheme| &asked.policy.auth[*scheme]);
    let looks = |scheme: &&Scheme| scheme.webhooks().is_some() || scheme.signatures().is_some();
    let shown = schemes.filter(looks).filter_map(|scheme| {
        let mut headers = scheme.own_headers().iter();
        let header = headers.find(|name| asked.parts.headers.contains_key(*name))?;
        Some(format!("{} looks at the signature in {header}", scheme.label.to_str().ok()?))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// How much a limit allows.
fn amounts(limit: &LimitPolicy) -> String {
    let amounts = limit.quota.iter().flat_map(|quota| quota.amounts.each());
    let quota = amounts.map(|(tier, amount)| {
        let period = crate::events::text::duration(amount.rate.period);
        let tier = tier.map_or_else(String::new, |tier| format!("{tier} "));
        format!("{tier}{} in {period}", amount.rate.count)
    });
    let concurrent = limit.concurrent.map(|most| format!("{most} at once"));
    let all: Vec<String> = quota.chain(concurrent).collect();
    format!(": {}", all.join(", "))
}
