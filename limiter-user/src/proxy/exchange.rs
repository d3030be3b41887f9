//! One request from its head to the end of its answer, and what is told of it.
//!
//! Gathers what the stages prove and find; on drop, however the exchange ended (answered, refused
//! or left by the client), exactly one outcome is counted and told.

use std::{net::IpAddr, pin::Pin, rc::Rc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, REFERER, UPGRADE, USER_AGENT},
    request::Parts,
};

use super::{
    access_log::Entry,
    body::{ResponseBody, Source},
    compiled::{Compiled, Route},
    core::{Core, InForce},
    once::Once,
    pace::Pace,
    proof::{Client, Grant, Principal, Quota},
    registry::Connection,
    reply::{Reply, Wording},
    stage::{cors, older_limits, response_headers, trace, transform::ForwardedFor},
    watch::{Phase, Watch},
};
use crate::{
    clock,
    limits::{AddressKey, Key},
    link::{ObservedOutcome, RequestFacts},
    policy::{Mode, http::ErrorShape},
    refusal::Refusal,
};

/// One request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) core: Rc<Core>,
    pub(super) connection: Rc<Connection>,
    /// This request's deadlines.
    pub(super) watch: Rc<Watch>,
    pub(super) in_force: Rc<InForce>,
    pub(super) now_ns: u64,
    unix_ns: u64,
    id: HeaderValue,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    pub(super) client: Option<Client>,
    pub(super) route: Option<usize>,
    pub(super) grant: Grant,
    pub(super) principal: Option<Principal>,
    /// What it was asked for last is a token.
    pub(super) asks_token: bool,
    pub(super) quota: Quota,
    /// What of it goes upstream once only.
    pub(super) once: Once,
    /// It was, and did not.
    is_given_back: bool,
    findings: Vec<Refusal>,
    refusal: Option<Refusal>,
    pub(super) forwarded: bool,
    status: u16,
    /// Of the answer's body, as given to the connection.
    pub(super) sent_bytes: u64,
    /// The client's time to take it.
    pub(super) pace: Pace,
    /// What only the access log tells, if there is one.
    logged: Option<Box<Logged>>,
}

#[derive(Debug)]
struct Logged {
    version: Version,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    trace: Option<String>,
}

impl Exchange {
    /// Begins with a head just read.
    pub(super) fn begin(
        core: &Rc<Core>,
        connection: &Rc<Connection>,
        watch: Rc<Watch>,
        in_force: Rc<InForce>,
        parts: &Parts,
    ) -> Box<Self> {
        let unix_ns = clock::coarse_unix_ns();
        let id = core.request_id(&parts.headers, unix_ns);
        core.counters.requests.bump();
        let policy = &in_force.policy;
        let pace = Pace::new(policy.bounds.min_body_rate, policy.timeouts.idle);
        let logged = policy.access_log.map(|_| Box::new(Logged::of(parts)));
        watch.begin_request();
        connection.begin_request();
        Box::new(Self {
            core: Rc::clone(core),
            connection: Rc::clone(connection),
            watch,
            in_force,
            now_ns: clock::monotonic_ns(),
            unix_ns,
            id,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            client: None,
            route: None,
            grant: Grant::None,
            principal: None,
            asks_token: false,
            quota: Quota::default(),
            once: Once::default(),
            is_given_back: false,
            findings: Vec::new(),
            refusal: None,
            forwarded: false,
            status: 0,
            sent_bytes: 0,
            pace,
            logged,
        })
    }

    /// What was asked for, as it was sent.
    pub(super) fn asked(&self) -> (Method, Uri) {
        (self.method.clone(), self.uri.clone())
    }

    /// Socket peer.
    pub(super) fn peer(&self) -> IpAddr {
        self.connection.peer
    }

    /// `future`'s output, or `None` when this request's deadline passes (see [`Watch::within`]).
    pub(super) async fn within<F: Future>(
        &self,
        limit: Duration,
        future: Pin<&mut F>,
    ) -> Option<F::Output> {
        self.watch.within(limit, future).await
    }

    /// Wall clock at the beginning, Unix seconds.
    pub(super) fn unix_seconds(&self) -> u64 {
        self.unix_ns / 1_000_000_000
    }

    /// Refuses, or in monitor mode only notes what would have been refused.
    pub(super) fn enforce(&mut self, mode: Mode, reply: impl Into<Reply>) -> Result<(), Reply> {
        let reply = reply.into();
        match mode {
            Mode::Enforce => Err(reply),
            Mode::Monitor => {
                self.findings.extend(reply.refusal());
                Ok(())
            }
        }
    }

    /// No part of the request goes upstream any more. What never did may come again, from whoever has
    /// a copy of it: it says nothing of this client, and uses up nothing of whom it names.
    pub(super) fn give_back(&mut self) {
        if std::mem::take(&mut self.once).give_back() {
            self.is_given_back = true;
            let in_force = Rc::clone(&self.in_force);
            self.quota.excuse(&in_force.policy, clock::monotonic_ns());
        }
    }

    /// The address headers for the upstream, made once per connection and client.
    pub(super) fn forwarded_for(&self, client: &Client) -> Rc<ForwardedFor> {
        let mut kept = self.connection.forwarded_for.borrow_mut();
        let https = client.https.unwrap_or_else(|| self.connection.tls().is_some());
        match kept.as_ref() {
            Some(headers) if headers.is_for(client.address, https) => Rc::clone(headers),
            _ => {
                let made = Rc::new(ForwardedFor::new(client.address, self.peer(), https));
                *kept = Some(Rc::clone(&made));
                made
            }
        }
    }

    /// The id, as passed on and echoed.
    pub(super) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// The answer to a request that ends here; `space` as for [`Reply::into_parts`].
    pub(super) fn reply(&mut self, reply: Reply, space: HeaderMap) -> Response<Source> {
        self.refusal = reply.refusal();
        let policy = &*self.in_force.policy;
        let limit = self.quota.refusing(policy);
        let wording = Wording { shape: policy.error_shape, limit, asks_token: self.asks_token };
        let (response, body) = reply.into_parts(wording, &self.id, space);
        response.map(|()| Source::Fixed(Some(body)))
    }

    /// Most bytes that a body of this request may have.
    pub(super) fn max_body_bytes(&self) -> u64 {
        let policy = &*self.in_force.policy;
        self.route(policy).map_or(policy.bounds.max_body_bytes, |route| route.max_body_bytes)
    }

    /// Adds what every response carries, and stays with the body until it ends.
    pub(super) fn follow(
        mut self: Box<Self>,
        response: Response<Source>,
    ) -> Response<ResponseBody> {
        let (mut parts, source) = response.into_parts();
        self.status = parts.status.as_u16();
        let in_force = Rc::clone(&self.in_force);
        self.quota.settle(&in_force.policy, self.status, clock::monotonic_ns);
        self.complete(&mut parts.headers);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            self.connection.framer().open();
            if let Some(tunnel) = self.connection.tunnel.borrow_mut().as_mut() {
                tunnel.places = self.quota.take_places();
            }
        }
        self.watch.enter(Phase::Response, self.in_force.policy.timeouts.idle);
        Response::from_parts(parts, ResponseBody::new(source, self))
    }

    /// The answer had begun and was not brought to its end.
    pub(super) fn give_up(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    fn complete(&self, headers: &mut HeaderMap) {
        let policy = &*self.in_force.policy;
        let route = self.route.map(|index| &policy.routes[index]);
        let own = route.and_then(|route| route.headers).map(|index| &policy.headers[index]);
        response_headers::apply(own, route, &self.id, headers);
        if let Some(index) = route.and_then(|route| route.cors) {
            cors::apply(&policy.cors[index], &self.grant, headers);
        }
        let is_elizaos = policy.error_shape == ErrorShape::ElizaOs;
        if is_elizaos {
            older_limits::translate(self.unix_seconds(), headers);
        } else if self.quota.is_told(policy) {
            older_limits::itemise(headers);
        }
        self.quota.apply(policy, self.unix_seconds(), self.core.random_word(), headers);
        if is_elizaos {
            older_limits::repeat(self.unix_seconds(), headers);
        }
        if self.connection.is_stream(&self.watch) {
            // HTTP/2 has a frame for it, sent when the connection drains.
            headers.remove(CONNECTION);
        } else if self.connection.is_draining() && !headers.contains_key(UPGRADE) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    fn route<'a>(&self, policy: &'a Compiled) -> Option<&'a Route> {
        self.route.map(|index| &policy.routes[index])
    }

    fn facts(&self) -> Box<RequestFacts> {
        let policy = &*self.in_force.policy;
        let bounded = |bytes: &[u8], most: usize| {
            let bytes = &bytes[..bytes.len().min(most)];
            String::from_utf8_lossy(bytes).into_owned()
        };
        Box::new(RequestFacts {
            id: bounded(self.id.as_bytes(), 128),
            method: bounded(self.method.as_str().as_bytes(), 32),
            path: bounded(self.uri.path().as_bytes(), 256),
            user_agent: self
                .user_agent
                .as_ref()
                .map(|value| bounded(value.as_bytes(), 128))
                .unwrap_or_default(),
            status: self.status,
            route: self.route(policy).map(|route| route.name.to_string()).unwrap_or_default(),
            principal: self.principal.as_ref().map(|who| who.identity(policy).name.to_string()),
            limit: (policy.error_shape == ErrorShape::ElizaOs)
                .then(|| self.quota.refusing(policy).map(str::to_owned))
                .flatten(),
        })
    }

    /// The line of the access log, if there is one.
    fn log(&self, client: IpAddr, duration_ns: u64) {
        let policy = &*self.in_force.policy;
        let (Some(logged), Some(format)) = (&self.logged, policy.access_log) else {
            return;
        };
        self.core.access_log.note(
            format,
            &Entry {
                unix_ns: self.unix_ns,
                duration_ns,
                client,
                peer: self.peer(),
                principal: self.principal.as_ref().map(|who| &*who.identity(policy).name),
                method: self.method.as_str(),
                path: self.uri.path(),
                version: logged.version(),
                host: logged.host(&self.uri),
                status: self.status,
                sent_bytes: self.sent_bytes,
                referer: logged.referer.as_ref().map_or(b"", HeaderValue::as_bytes),
                user_agent: self.user_agent.as_ref().map_or(b"", HeaderValue::as_bytes),
                id: self.id.as_bytes(),
                route: self.route(policy).map_or("", |route| &route.name),
                refusal: self.refusal.map_or("", Refusal::label),
                trace: logged.trace.as_deref().unwrap_or_default(),
            },
        );
    }

    fn tell(&self, client: IpAddr, outcome: ObservedOutcome) {
        let who = (self.peer(), client);
        self.core.report.note(self.unix_ns, who, outcome, || Some(self.facts()));
    }
}

impl Logged {
    fn of(parts: &Parts) -> Self {
        Self {
            version: parts.version,
            host: parts.headers.get(HOST).cloned(),
            referer: parts.headers.get(REFERER).cloned(),
            trace: trace::trace_id(&parts.headers).map(str::to_owned),
        }
    }

    fn version(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        }
    }

    fn host<'a>(&'a self, uri: &'a Uri) -> &'a [u8] {
        let named = self.host.as_ref().map(HeaderValue::as_bytes);
        named.or_else(|| uri.host().map(str::as_bytes)).unwrap_or_default()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.give_back();
        // In the body, perhaps after the answer had begun.
        if let Some(refusal) = self.watch.violation.take() {
            self.refusal.get_or_insert(refusal);
        }
        let counters = &self.core.counters;
        counters.requests_ended.bump();
        let client = self.client.map_or(self.peer(), |client| client.address);
        for finding in &self.findings {
            counters.monitored[*finding as usize].bump();
            self.tell(client, ObservedOutcome::Monitored(*finding));
        }
        if let Some(refusal) = self.refusal {
            counters.refused[refusal as usize].bump();
            self.tell(client, ObservedOutcome::Refused(refusal));
        }
        let route = self.route(&self.in_force.policy).map(|route| &route.name);
        let duration_ns = clock::monotonic_ns().saturating_sub(self.now_ns);
        counters.outcomes.count(route, self.status, self.refusal, duration_ns);
        self.log(client, duration_ns);
        if self.forwarded {
            counters.forwarded.bump();
        }
        counters.respond(self.status);
        if self.principal.is_some() && !self.is_given_back && self.core.is_news(client, self.now_ns)
        {
            self.tell(client, ObservedOutcome::Authenticated);
            let key = Key::address(AddressKey::new(client));
            self.in_force.policy.known.charge(key, 1, self.now_ns);
        }
        self.connection.end_request(&self.watch, self.in_force.policy.timeouts.idle);
    }
}
