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
    compiled_cors::Cors,
    overload::known_meter,
    upstream::{Directory, Upstream},
};
use crate::{
    clock,
    limits::{Counter, Counters, Meter},
    policy::{
        HttpPolicy, Mode,
        http::{
            AccessFormat, AppliesTo, AuthKind, AuthPolicy, ClientAddressSource, HeaderEdits,
            HeadersPolicy, HttpBounds, HttpTimeouts, LimitKey, LimitPolicy, RouteAuth, RoutePolicy,
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
    /// Who authenticated lately: not refused when there is too much to do.
    pub(super) known: Arc<Counter>,
    pub(super) upstreams: Vec<Arc<Upstream>>,
    /// Leads to one of `groups`.
    pub(super) router: Router,
    pub(super) groups: Vec<RouteGroup>,
    pub(super) routes: Vec<Route>,
    pub(super) auth: Vec<Scheme>,
    pub(super) limits: Vec<Limit>,
    pub(super) cors: Vec<Cors>,
    pub(super) headers: Vec<Headers>,
}

/// Budget of failed attempts.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) mode: Mode,
    pub(super) failures: Arc<Counter>,
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
    pub(super) limits: Vec<usize>,
    pub(super) cors: Option<usize>,
    pub(super) headers: Option<usize>,
    pub(super) allow: Option<Vec<IpNet>>,
    pub(super) request_headers: Headers,
    pub(super) response_headers: Headers,
    /// Bytes to take off the front of the path for the upstream.
    pub(super) strip_bytes: usize,
}

/// One authentication scheme: API keys by digest.
#[derive(Debug)]
pub(super) struct Scheme {
    pub(super) mode: Mode,
    pub(super) label: HeaderValue,
    pub(super) header: HeaderName,
    /// Sorted by the first eight bytes of the digest.
    pub(super) keys: Vec<Key>,
}

/// One API key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) digest: [u8; 32],
    pub(super) expires_unix_seconds: u64,
    pub(super) principal: Arc<str>,
    pub(super) subject: HeaderValue,
    pub(super) tier: Option<HeaderValue>,
}

/// One rate limit.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) mode: Mode,
    pub(super) key: LimitKey,
    pub(super) applies_to: AppliesTo,
    pub(super) counter: Arc<Counter>,
    /// Its name as an sf-String with quotes.
    pub(super) quoted_name: String,
    /// Its item of `RateLimit-Policy`.
    pub(super) policy_field: HeaderValue,
}

/// Headers to remove and to set.
#[derive(Debug)]
pub(super) struct Headers {
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    pub(super) remove: Vec<HeaderName>,
}

impl Headers {
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
    /// Checks what the types do not say; the message names what is wrong.
    pub(super) fn new(
        policy: &HttpPolicy,
        counters: &mut Counters,
        upstreams: &mut Directory,
    ) -> Result<Self, String> {
        counters.begin(clock::monotonic_ns());
        let guard_period = policy.guard.failures.period;
        let failures = Meter::bucket(policy.guard.failures, policy.guard.failures.count);
        let guard = Guard {
            mode: policy.guard.mode,
            failures: counters.counter(GUARD_COUNTER, failures, guard_period)?,
        };
        let known = counters.counter(KNOWN_COUNTER, known_meter(), Duration::from_hours(1))?;
        let limits: Vec<Limit> = policy
            .limits
            .iter()
            .map(|limit| compile_limit(limit, counters))
            .collect::<Result<_, _>>()?;
        let routes: Vec<Route> = policy
            .routes
            .iter()
            .map(|route| compile_route(route, policy))
            .collect::<Result<_, _>>()?;
        let (finder, groups) = group(&policy.routes, &routes)?;
        let compiled = Self {
            bounds: policy.bounds,
            timeouts: policy.timeouts,
            access_log: policy.access_log.as_ref().map(|log| log.format),
            client_address: policy.client_address,
            trusted_proxies: policy.trusted_proxies.clone(),
            trusted: policy.trusted.clone(),
            guard,
            known,
            router: finder,
            groups,
            routes,
            auth: policy.auth.iter().map(compile_scheme).collect::<Result<_, _>>()?,
            limits,
            cors: policy.cors.iter().map(Cors::new).collect::<Result<_, _>>()?,
            headers: policy.headers.iter().map(compile_headers).collect::<Result<_, _>>()?,
            // Last: what went before cannot undo it.
            upstreams: upstreams.select(&policy.upstreams)?,
        };
        counters.commit();
        Ok(compiled)
    }
}

/// Cannot be names of limits, which are TOML keys of printable characters.
const GUARD_COUNTER: &str = "\0guard";
const KNOWN_COUNTER: &str = "\0known";

impl Scheme {
    /// Index of the key with this digest, compared in constant time.
    pub(super) fn find(&self, digest: &[u8; 32]) -> Option<usize> {
        let first = self.keys.partition_point(|key| key.digest[..8] < digest[..8]);
        self.keys[first..]
            .iter()
            .take_while(|key| key.digest[..8] == digest[..8])
            .position(|key| {
                aws_lc_rs::constant_time::verify_slices_are_equal(&key.digest, digest).is_ok()
            })
            .map(|position| first + position)
    }
}

fn compile_route(route: &RoutePolicy, policy: &HttpPolicy) -> Result<Route, String> {
    let within = |index: usize, length: usize, what: &str| {
        if index < length {
            Ok(index)
        } else {
            Err(format!("route {}: no {what} {index}", route.name))
        }
    };
    let auth = match &route.auth {
        RouteAuth::Public => Vec::new(),
        RouteAuth::AnyOf(schemes) if schemes.is_empty() => {
            return Err(format!("route {}: empty list of schemes", route.name));
        }
        RouteAuth::AnyOf(schemes) => schemes.clone(),
    };
    for index in &auth {
        within(*index, policy.auth.len(), "scheme")?;
    }
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
        auth,
        limits: route.limits.clone(),
        cors: route
            .cors
            .map(|index| within(index, policy.cors.len(), "cors policy"))
            .transpose()?,
        headers: route
            .headers
            .map(|index| within(index, policy.headers.len(), "headers policy"))
            .transpose()?,
        allow: route.allow.clone(),
        request_headers: compile_edits(&route.request_headers)?,
        response_headers: compile_edits(&route.response_headers)?,
        strip_bytes: route.strip_prefix.as_deref().map_or(0, strip_bytes),
    })
}

fn compile_edits(edits: &HeaderEdits) -> Result<Headers, String> {
    Ok(Headers {
        set: edits
            .set
            .iter()
            .map(|(key, text)| Ok((name(key)?, constant(text, key)?)))
            .collect::<Result<_, String>>()?,
        remove: edits.remove.iter().map(|key| name(key)).collect::<Result<_, _>>()?,
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

fn compile_scheme(policy: &AuthPolicy) -> Result<Scheme, String> {
    let AuthKind::ApiKey { header, keys } = &policy.kind;
    let mut keys: Vec<Key> = keys
        .iter()
        .map(|key| {
            Ok(Key {
                digest: key.digest,
                expires_unix_seconds: key.expires_unix_seconds.unwrap_or(u64::MAX),
                principal: key.name.as_str().into(),
                subject: value(&key.name, "key name")?,
                tier: key.tier.as_deref().map(|tier| value(tier, "tier")).transpose()?,
            })
        })
        .collect::<Result<_, String>>()?;
    keys.sort_unstable_by_key(|key| key.digest);
    Ok(Scheme {
        mode: policy.mode,
        label: value(&policy.name, "scheme name")?,
        header: name(header)?,
        keys,
    })
}

fn compile_limit(policy: &LimitPolicy, counters: &mut Counters) -> Result<Limit, String> {
    let meter = Meter::of(policy);
    let quoted_name = format!("\"{}\"", policy.name.replace('\\', "\\\\").replace('"', "\\\""));
    let seconds = ceil_seconds(policy.rate.period);
    Ok(Limit {
        mode: policy.mode,
        key: policy.key,
        applies_to: policy.applies_to,
        policy_field: constant(
            &format!("{quoted_name};q={};w={seconds}", meter.limit()),
            "limit name",
        )?,
        quoted_name,
        counter: counters.counter(&policy.name, meter, policy.rate.period)?,
    })
}

fn ceil_seconds(period: Duration) -> u64 {
    period.as_secs() + u64::from(period.subsec_nanos() > 0)
}

fn compile_headers(policy: &HeadersPolicy) -> Result<Headers, String> {
    Ok(Headers {
        set: policy
            .set
            .iter()
            .map(|(key, text)| Ok((name(key)?, constant(text, key)?)))
            .collect::<Result<_, String>>()?,
        remove: policy.remove.iter().map(|key| name(key)).collect::<Result<_, _>>()?,
    })
}

fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("header name {text:?}"))
}

fn value(text: &str, what: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{what}: not a header value"))
}

/// As [`value`], for what nearly every response carries: copied without counting references. Its
/// text stays in memory for ever, once however often a policy is loaded.
fn constant(text: &str, what: &str) -> Result<HeaderValue, String> {
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
