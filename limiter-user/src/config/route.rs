//! `[[http.route]]`: written -> checked, names resolved, gaps filled by the preset.

mod defaults;
mod edits;
mod names;
mod reach;
mod target;
mod unused;

use std::cmp::{Ordering, Reverse};

use toml::Spanned;

pub(super) use self::defaults::Defaults;
use self::{
    edits::Side,
    names::{Known, names_of, once, optional},
};
use super::{
    Scope,
    document::{Document, http::RouteDocument},
    error::{Place, Report},
    limits as checked_limits,
    preset::elizaos,
    values,
};
use crate::policy::{
    http::{
        AuthKind, AuthPolicy, CorsPolicy, HeadersPolicy, LimitPolicy, RouteAuth, RoutePolicy,
        UpstreamPolicy,
    },
    listener::ListenerPolicy,
    routing,
};

/// What routes name. Presets add to it.
pub(super) struct Resources {
    pub(super) upstreams: Vec<UpstreamPolicy>,
    pub(super) auth: Vec<AuthPolicy>,
    pub(super) limits: Vec<LimitPolicy>,
    pub(super) cors: Vec<CorsPolicy>,
    pub(super) headers: Vec<HeadersPolicy>,
}

pub(super) fn check(
    document: &Document,
    written: &[Spanned<RouteDocument>],
    listeners: &[ListenerPolicy],
    resources: &mut Resources,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<RoutePolicy> {
    let only_loopback = listeners.iter().all(|listener| listener.address.is_local());
    let defaults =
        defaults::of(document, written.is_empty(), only_loopback, resources, scope, report);
    let fallback = [Spanned::new(0..0, RouteDocument::default())];
    let alone = written.is_empty() && scope.elizaos.is_none();
    let written = if alone { &fallback } else { written };
    let mut routes: Vec<RoutePolicy> = Vec::new();
    let mut places: Vec<Place> = Vec::new();
    for entry in written {
        let Some(mut route) = one(entry, &defaults, resources, document, report) else {
            continue;
        };
        let place: Place =
            if entry.span().is_empty() { "http.route".into() } else { entry.span().into() };
        if route.auth.is_open() && !only_loopback {
            let sentence = format!("{} is open to everybody who can reach it", route.name);
            report.risk(place.clone(), sentence);
        }
        if scope.elizaos.is_some() {
            // As requests are compared with it.
            route.path = route.path.to_lowercase();
        }
        // One behind which nothing is left is a matter for the warnings.
        if routes.iter().any(|other| overlaps(other, &route)) && !is_hidden(&routes, &route) {
            report.refuse(place.clone(), "another route matches some of the same requests");
        }
        routes.push(route);
        places.push(place);
    }
    if let Some(settings) = &scope.elizaos {
        elizaos::add_routes(settings, &defaults, resources, &mut routes, report);
        places.resize(routes.len(), "preset elizaos".into());
        if !only_loopback {
            let sentence = "health, sockets and pages are open to everybody who can reach them";
            report.risk("preset elizaos", sentence);
        }
    }
    reach::warn(&routes, &places, listeners, report);
    unused::warn(document, &routes, resources, report);
    routes.sort_by(order);
    routes
}

fn one(
    entry: &Spanned<RouteDocument>,
    defaults: &Defaults,
    resources: &Resources,
    document: &Document,
    report: &mut Report,
) -> Option<RoutePolicy> {
    let written = entry.get_ref();
    refuse_later(written, report);
    let host = written.host.as_ref().and_then(|host| target::host(host, report));
    let path = target::path(written, report);
    let methods = written.methods.as_ref().map(|list| {
        if list.get_ref().is_empty() {
            report.refuse(list.span(), "admits no method; leave it out to admit all");
        }
        report.values(list.get_ref(), values::method)
    });
    let upstream = match (&written.upstream, resources.upstreams.as_slice()) {
        (Some(name), known) => {
            let checked = known.iter().map(|known| known.name.as_str()).collect();
            let known = Known { table: "upstream", checked, written: Vec::new() };
            known.find(name.span().into(), name.get_ref(), report)
        }
        (None, [_]) => Some(0),
        (None, []) => None,
        (None, _) => {
            report.refuse(entry.span(), "there are several upstreams: `upstream` must name one");
            None
        }
    };
    let auth = auth_of(entry, defaults, resources, document, report);
    let checked = resources.limits.iter().map(|limit| &limit.name);
    let known = Known::new("limits", checked, &document.limits);
    let limits = match &written.limits {
        Some(names) => names::limits_of(names, &known, report),
        None => defaults.limits.clone(),
    };
    let checked = resources.cors.iter().map(|cors| &cors.name);
    let known = Known::new("cors", checked, &document.cors);
    let cors = optional(written.cors.as_ref(), &known, defaults.cors, report);
    let checked = resources.headers.iter().map(|headers| &headers.name);
    let known = Known::new("headers", checked, &document.headers);
    let headers = optional(written.headers.as_ref(), &known, defaults.headers, report);
    let allow = match &written.allow {
        Some(list) => {
            if list.get_ref().is_empty() {
                report.risk(list.span(), "an empty list admits nobody");
            }
            Some(report.values(list.get_ref(), values::network))
        }
        None => defaults.allow.clone(),
    };
    let request_headers = edits::check(&written.request_headers, Side::Request, report);
    let response_headers = edits::check(&written.response_headers, Side::Response, report);
    let (path, upstream, auth) = (path?, upstream?, auth?);
    let scopes = scopes(written, &auth, report);
    // With the default comes all of it.
    let second_auth = match written.auth {
        Some(_) => Vec::new(),
        None => defaults.second_auth.clone(),
    };
    let max_body_bytes =
        written.max_body.as_ref().and_then(|text| report.value(text, values::size));
    let strip_prefix = target::strip_prefix(written.strip_prefix.as_ref(), &path, report);
    Some(RoutePolicy {
        name: format!("{}{}", host.as_deref().unwrap_or_default(), path.text()),
        host,
        path,
        methods: methods.unwrap_or_default(),
        upstream,
        auth,
        scopes,
        cost: cost(written, &limits, resources, report),
        limits,
        cors,
        headers,
        allow,
        request_headers,
        response_headers,
        second_auth,
        strip_prefix,
        max_body_bytes,
        content_types: Vec::new(),
    })
}

fn auth_of(
    entry: &Spanned<RouteDocument>,
    defaults: &Defaults,
    resources: &Resources,
    document: &Document,
    report: &mut Report,
) -> Option<RouteAuth> {
    let schemes = resources.auth.iter().map(|scheme| &scheme.name);
    let known = Known::new("auth", schemes, &document.auth);
    let Some(names) = &entry.get_ref().auth else {
        if defaults.auth.is_none() && !entry.span().is_empty() {
            let help = if known.checked.is_empty() {
                "auth = \"none\" makes it public; [auth.NAME] defines a scheme".to_owned()
            } else {
                format!("auth = {:?}, or auth = \"none\" to make it public", known.checked)
            };
            report.refuse_with(entry.span(), "the route does not say who may call: `auth`", help);
        }
        return defaults.auth.clone();
    };
    let listed = names_of(names);
    once(&listed, report);
    let (none, listed): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|(_, name)| *name == "none");
    if !none.is_empty() && listed.is_empty() {
        return Some(RouteAuth::Public);
    }
    if listed.is_empty() {
        report.refuse(names.span(), "names no scheme; \"none\" makes the route public");
        return None;
    }
    let count = listed.len();
    let found: Vec<usize> =
        listed.into_iter().filter_map(|(place, name)| known.find(place, name, report)).collect();
    if found.len() != count {
        return None;
    }
    if none.is_empty() {
        return Some(RouteAuth::AnyOf(found));
    }
    let asks = |at: &&usize| matches!(resources.auth[**at].kind, AuthKind::Forward(_));
    if let Some(at) = found.iter().find(asks) {
        let name = &resources.auth[*at].name;
        let why = format!(
            "\"none\" cannot stand beside {name:?}: its server says who is let in without a credential"
        );
        report.refuse(names.span(), why);
    }
    Some(RouteAuth::Optional(found))
}

/// What a caller must be allowed; of nobody in particular nothing can be asked.
fn scopes(written: &RouteDocument, auth: &RouteAuth, report: &mut Report) -> Vec<String> {
    let Some(list) = &written.scopes else {
        return Vec::new();
    };
    if auth.is_open() && !list.get_ref().is_empty() {
        report.refuse(list.span(), "the route lets in who presents nothing, and has no scopes");
    }
    report.values(list.get_ref(), values::scope)
}

/// A request must be able to pass all of the route's limits.
fn cost(
    written: &RouteDocument,
    limits: &[usize],
    resources: &Resources,
    report: &mut Report,
) -> Option<u64> {
    let place = written.cost.as_ref()?;
    let cost = report.number_or(Some(place), 1..=checked_limits::MAX_COST, 1_u64);
    for quota in limits.iter().filter_map(|limit| resources.limits[*limit].quota.as_ref()) {
        checked_limits::fits(quota, cost, place.span(), report);
    }
    if limits.is_empty() {
        report.refuse(place.span(), "the route has no limits");
    }
    Some(cost)
}

fn refuse_later(written: &RouteDocument, report: &mut Report) {
    report.choice(written.detect.as_ref(), &[("off", ())], &["default"]);
    report.later(
        &[&written.validate, &written.mask_response_fields, &written.deprecated],
        "host, path, exact, glob, methods, upstream, auth, scopes, limits, cost, cors, headers, \
         allow, request_headers, response_headers, strip_prefix, max_body",
    );
}

/// Whether requests can match both, neither of which is more specific.
pub(super) fn overlaps(left: &RoutePolicy, right: &RoutePolicy) -> bool {
    let methods = match (left.methods.is_empty(), right.methods.is_empty()) {
        (true, true) => true,
        (false, false) => left.methods.iter().any(|method| right.methods.contains(method)),
        _ => false,
    };
    methods && left.host == right.host && left.path == right.path
}

/// Whether routes before it match every request that `route` does: the first one decides.
pub(super) fn is_hidden(before: &[RoutePolicy], route: &RoutePolicy) -> bool {
    let same = || before.iter().filter(|one| one.host == route.host && one.path == route.path);
    let has = |method: &String| same().any(|one| one.methods.contains(method));
    if route.methods.is_empty() {
        same().any(|one| one.methods.is_empty())
    } else {
        route.methods.iter().all(has)
    }
}

/// The order of the router: a host before a wildcard before any, then the path, then methods.
fn order(one: &RoutePolicy, other: &RoutePolicy) -> Ordering {
    let host = |route: &RoutePolicy| match route.host.as_deref() {
        Some(host) => (host.starts_with("*."), Reverse(host.len())),
        None => (true, Reverse(0)),
    };
    host(one)
        .cmp(&host(other))
        .then_with(|| one.host.cmp(&other.host))
        .then_with(|| routing::specificity(&one.path, &other.path))
        .then_with(|| one.methods.is_empty().cmp(&other.methods.is_empty()))
}
