//! The HTTP policy as the request path reads it: indices checked, header values prebuilt.
//!
//! In: a policy and the counters of the one before; out: an immutable snapshot shared by all
//! cores. Nothing here is built while a request waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use super::{
    accepted::Accepted, compiled_auth::Scheme, compiled_cors::Cors, compiled_guard::Guard,
    compiled_limits::Limit, content::Budget, lasting::Lasting, overload::known_meter,
    shared_store::SharedStore, tokens::Verified, upstream::Upstream,
};
use crate::{
    clock,
    credentials::replay::Replays,
    limits::{Counter, concurrency::UnderWay},
    policy::{
        HttpPolicy,
        auth::AuthKind,
        http::{
            AccessFormat, ClientAddressSource, ErrorShape, HttpBounds, HttpTimeouts, RouteAuth,
            RoutePolicy,
        },
        routing::Router,
    },
};

/// A policy in force.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) bounds: HttpBounds,
    pub(super) timeouts: HttpTimeouts,
    pub(super) access_log: Option<AccessFormat>,
    pub(super) client_address: ClientAddressSource,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) trusted: Vec<IpNet>,
    pub(super) guard: Guard,
    /// For bodies that stages look at as a whole.
    pub(super) inspection: Arc<Budget>,
    /// Requests that wait for their turn, or for somebody else's word.
    pub(super) waiting: Arc<UnderWay>,
    /// Signed messages that are under way or were used, if any scheme signs.
    pub(super) replays: Option<Arc<Replays>>,
    /// Tokens that were verified lately, on any core.
    pub(super) verified: Arc<Verified>,
    /// Credentials that servers which are asked accepted lately, on any core.
    pub(super) accepted: Arc<Accepted>,
    /// Who authenticated lately: not refused when there is too much to do.
    pub(super) known: Arc<Counter>,
    /// Those of routes, then those that schemes ask.
    pub(super) upstreams: Vec<Arc<Upstream>>,
    /// Leads to one of `groups`.
    pub(super) router: Router,
    pub(super) groups: Vec<RouteGroup>,
    pub(super) routes: Vec<Route>,
    pub(super) auth: Vec<Scheme>,
    pub(super) limits: Vec<Limit>,
    /// Where limits are counted, if not here.
    pub(super) store: Option<Arc<SharedStore>>,
    pub(super) cors: Vec<Cors>,
    pub(super) headers: Vec<Headers>,
    pub(super) error_shape: ErrorShape,
    pub(super) ignore_path_case: bool,
}

/// Routes of the same host and path, which differ by method.
#[derive(Debug)]
pub(super) struct RouteGroup {
    /// Indices of routes, in the policy's order.
    pub(super) routes: Vec<usize>,
    /// `Allow` of the refusal when no route of the group has the method.
    pub(super) allow: HeaderValue,
}

/// What is required of the requests that match.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) name: Arc<str>,
    /// Empty: any.
    pub(super) methods: Vec<Method>,
    pub(super) upstream: usize,
    /// Indices of schemes; empty: public.
    pub(super) auth: Vec<usize>,
    /// Whether it lets in who presents nothing.
    pub(super) is_open: bool,
    /// The same route with the schemes of whoever the caller must be beside that.
    pub(super) second: Option<Box<Self>>,
    /// Whether only tokens let in.
    pub(super) asks_token: bool,
    /// Fields that the upstream gets from nobody's client: credentials for this host alone, and what
    /// only who was asked says.
    pub(super) hidden: Box<[HeaderName]>,
    /// Whether it gets no token either.
    pub(super) hides_token: bool,
    pub(super) scopes: Vec<Box<str>>,
    /// What a caller without them is told (RFC 6750, 3.1).
    pub(super) scope_challenge: HeaderValue,
    pub(super) limits: Vec<usize>,
    /// What a request weighs, whatever its limits say.
    pub(super) cost: Option<u64>,
    pub(super) cors: Option<usize>,
    pub(super) headers: Option<usize>,
    pub(super) allow: Option<Vec<IpNet>>,
    pub(super) request_headers: Headers,
    pub(super) response_headers: Headers,
    /// Bytes to take off the front of the path for the upstream.
    pub(super) strip_bytes: usize,
    pub(super) max_body_bytes: u64,
    /// Empty: any.
    pub(super) content_types: Vec<String>,
}

/// Headers to remove and to set.
#[derive(Debug)]
pub(super) struct Headers {
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    pub(super) remove: Vec<HeaderName>,
}

impl Headers {
    /// `set`: names and values.
    fn new(set: &[(String, String)], remove: &[String]) -> Result<Self, String> {
        Ok(Self {
            set: set
                .iter()
                .map(|(key, text)| Ok((name(key)?, constant(text, key)?)))
                .collect::<Result<_, String>>()?,
            remove: remove.iter().map(|key| name(key)).collect::<Result<_, _>>()?,
        })
    }

    /// What is removed or set.
    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> + Clone {
        self.remove.iter().chain(self.set.iter().map(|(name, _)| name))
    }

    /// Removes, then sets.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }
}

impl Compiled {
    /// Begins to ask issuers that are new for their keys. On the thread of the conductor: one
    /// question for the whole process.
    pub(super) fn ask_issuers(&self) {
        for jwt in self.auth.iter().filter_map(Scheme::jwt) {
            jwt.ask_issuer(&self.upstreams);
        }
    }

    /// Checks what the types do not say; the message names what is wrong. Then nothing lasts of it.
    pub(super) fn new(policy: &HttpPolicy, lasting: &mut Lasting) -> Result<Self, String> {
        Self::read(policy, lasting).inspect_err(|_| lasting.counters.abandon())
    }

    fn read(policy: &HttpPolicy, lasting: &mut Lasting) -> Result<Self, String> {
        let Lasting {
            counters,
            upstreams,
            inspection,
            signed,
            issuers,
            verified,
            accepted,
            stores,
        } = lasting;
        counters.begin(clock::monotonic_ns());
        let guard = Guard::new(&policy.guard, counters)?;
        let known = counters.counter(KNOWN_COUNTER, known_meter(), Duration::from_hours(1))?;
        let limits: Vec<Limit> = policy
            .limits
            .iter()
            .map(|limit| Limit::new(limit, counters, policy.store.is_some()))
            .collect::<Result<_, _>>()?;
        let mut routes: Vec<Route> = policy
            .routes
            .iter()
            .map(|route| compile_route(route, policy))
            .collect::<Result<_, _>>()?;
        let mut asked = policy.upstreams.clone();
        let auth = policy.auth.iter().map(|scheme| Scheme::new(scheme, &mut asked, issuers));
        let auth: Vec<Scheme> = auth.collect::<Result<_, _>>()?;
        for route in &mut routes {
            route.hide(&auth);
        }
        let once_within = auth.iter().filter_map(Scheme::once_within).max();
        let (finder, groups) = group(&policy.routes, &routes)?;
        let cors = policy.cors.iter().map(Cors::new).collect::<Result<_, _>>()?;
        let edits = policy.headers.iter().map(|own| Headers::new(&own.set, &own.remove));
        let headers = edits.collect::<Result<_, _>>()?;
        let store = stores.prepare(policy.store.as_ref())?;
        // Nothing fails from here on, so that what lasts goes on with this policy or not at all.
        let upstreams = upstreams.select(&asked)?;
        counters.commit();
        Ok(Self {
            bounds: policy.bounds,
            timeouts: policy.timeouts,
            access_log: policy.access_log.as_ref().map(|log| log.format),
            client_address: policy.client_address,
            trusted_proxies: policy.trusted_proxies.clone(),
            trusted: policy.trusted.clone(),
            guard,
            inspection: Arc::clone(inspection),
            waiting: Arc::clone(counters.under_way()),
            replays: once_within.map(|seconds| signed.within(seconds)),
            verified: Arc::clone(verified),
            accepted: Arc::clone(accepted),
            known,
            router: finder,
            groups,
            routes,
            auth,
            limits,
            cors,
            headers,
            store: stores.select(store),
            error_shape: policy.error_shape,
            ignore_path_case: policy.ignore_path_case,
            upstreams,
        })
    }
}

impl Route {
    /// Its schemes of `all`, and those of whoever the caller must be beside that.
    pub(super) fn schemes<'a>(
        &'a self,
        all: &'a [Scheme],
    ) -> impl Iterator<Item = &'a Scheme> + Clone {
        let second = self.second.iter().flat_map(|second| &second.auth);
        self.auth.iter().chain(second).map(|scheme| &all[*scheme])
    }

    /// Gathers what is hidden once for all requests.
    fn hide(&mut self, all: &[Scheme]) {
        let hiding = || self.schemes(all).filter(|scheme| scheme.hides);
        let hides_token = hiding().any(|scheme| scheme.jwt().is_some());
        let own = hiding().flat_map(Scheme::own_headers);
        let copied = self.schemes(all).flat_map(Scheme::copied);
        let hidden = own.chain(copied).cloned().collect();
        (self.hidden, self.hides_token) = (hidden, hides_token);
    }
}

/// Cannot be the name of a limit, which is a TOML key of printable characters.
const KNOWN_COUNTER: &str = "\0known";

fn compile_route(route: &RoutePolicy, policy: &HttpPolicy) -> Result<Route, String> {
    let within = |index: usize, length: usize, what: &str| {
        if index < length {
            Ok(index)
        } else {
            Err(format!("route {}: no {what} {index}", route.name))
        }
    };
    let auth = route.auth.schemes().to_vec();
    if auth.is_empty() && route.auth != RouteAuth::Public {
        return Err(format!("route {}: empty list of schemes", route.name));
    }
    for index in &auth {
        within(*index, policy.auth.len(), "scheme")?;
    }
    let second = if route.second_auth.is_empty() {
        None
    } else {
        let second = RoutePolicy {
            auth: RouteAuth::AnyOf(route.second_auth.clone()),
            second_auth: Vec::new(),
            ..route.clone()
        };
        Some(Box::new(compile_route(&second, policy)?))
    };
    let is_token = |index: &usize| matches!(policy.auth[*index].kind, AuthKind::Jwt(_));
    for index in &route.limits {
        within(*index, policy.limits.len(), "limit")?;
    }
    Ok(Route {
        name: route.name.as_str().into(),
        methods: route
            .methods
            .iter()
            .map(|method| {
                Method::from_bytes(method.as_bytes())
                    .map_err(|_| format!("route {}: method {method:?}", route.name))
            })
            .collect::<Result<_, _>>()?,
        upstream: within(route.upstream, policy.upstreams.len(), "upstream")?,
        asks_token: !auth.is_empty() && auth.iter().all(is_token),
        hidden: Box::default(),
        hides_token: false,
        auth,
        is_open: route.auth.is_open(),
        second,
        scopes: route.scopes.iter().map(|scope| scope.as_str().into()).collect(),
        scope_challenge: value(
            &format!(
                "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"{}\"",
                route.scopes.join(" ")
            ),
            "scopes",
        )?,
        limits: route.limits.clone(),
        cost: route.cost,
        cors: route
            .cors
            .map(|index| within(index, policy.cors.len(), "cors policy"))
            .transpose()?,
        headers: route
            .headers
            .map(|index| within(index, policy.headers.len(), "headers policy"))
            .transpose()?,
        allow: route.allow.clone(),
        request_headers: Headers::new(&route.request_headers.set, &route.request_headers.remove)?,
        response_headers: Headers::new(
            &route.response_headers.set,
            &route.response_headers.remove,
        )?,
        strip_bytes: route.strip_prefix.as_deref().map_or(0, strip_bytes),
        max_body_bytes: route.max_body_bytes.unwrap_or(policy.bounds.max_body_bytes),
        content_types: route.content_types.clone(),
    })
}

/// What is left keeps its slash.
fn strip_bytes(prefix: &str) -> usize {
    prefix.trim_end_matches('/').len()
}

/// Puts routes of the same host and path together.
fn group(policies: &[RoutePolicy], routes: &[Route]) -> Result<(Router, Vec<RouteGroup>), String> {
    let mut groups: Vec<RouteGroup> = Vec::new();
    let mut places = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate() {
        let place = *places.entry((policy.host.as_deref(), &policy.path)).or_insert_with(|| {
            groups.push(RouteGroup { routes: Vec::new(), allow: HeaderValue::from_static("") });
            groups.len() - 1
        });
        groups[place].routes.push(index);
    }
    let first = |group: &RouteGroup| &policies[group.routes[0]];
    let patterns = groups.iter().map(first);
    let finder = Router::new(patterns.map(|route| (route.host.as_deref(), &route.path)));
    for group in &mut groups {
        let mut methods: Vec<&str> = Vec::new();
        for method in group.routes.iter().flat_map(|index| &routes[*index].methods) {
            methods.push(method.as_str());
            if *method == Method::GET {
                methods.push("HEAD");
            }
        }
        if group.routes.iter().any(|index| routes[*index].methods.is_empty()) {
            methods.extend(["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]);
        }
        methods.sort_unstable();
        methods.dedup();
        group.allow = value(&methods.join(", "), "methods")?;
    }
    Ok((finder, groups))
}

pub(super) fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("header name {text:?}"))
}

fn value(text: &str, what: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{what}: not a header value"))
}

/// As [`value`], for what nearly every response carries: copied without counting references. Its
/// text stays in memory for ever, once however often a policy is loaded.
pub(super) fn constant(text: &str, what: &str) -> Result<HeaderValue, String> {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    value(text, what)?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = known.get(text).copied().unwrap_or_else(|| {
        let kept: &'static str = Box::leak(text.into());
        known.insert(kept);
        kept
    });
    Ok(HeaderValue::from_static(kept))
}
