//! `[[http.route]]`: written -> checked, names resolved, gaps filled by the preset.

use ipnet::IpNet;
use toml::Spanned;

use super::{
    Scope, auth,
    document::{Document, Text, http::RouteDocument, shapes::NamesDocument},
    error::{Place, Report, distance},
    headers, values,
};
use crate::policy::http::{
    AuthPolicy, CorsPolicy, HeadersPolicy, LimitPolicy, ListenerPolicy, PathPattern, RouteAuth,
    RoutePolicy, UpstreamPolicy,
};

/// What routes name. Presets add to it.
pub(super) struct Resources {
    pub(super) upstreams: Vec<UpstreamPolicy>,
    pub(super) auth: Vec<AuthPolicy>,
    pub(super) limits: Vec<LimitPolicy>,
    pub(super) cors: Vec<CorsPolicy>,
    pub(super) headers: Vec<HeadersPolicy>,
}

/// What a route gets for everything that it does not say.
struct Defaults {
    /// `None`: a route must say it.
    auth: Option<RouteAuth>,
    limits: Vec<usize>,
    cors: Option<usize>,
    headers: Option<usize>,
    allow: Option<Vec<IpNet>>,
}

pub(super) fn check(
    document: &Document,
    written: &[Spanned<RouteDocument>],
    listeners: &[ListenerPolicy],
    resources: &mut Resources,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<RoutePolicy> {
    let only_loopback = listeners
        .iter()
        .all(|listener| listener.address.ip().is_loopback());
    let defaults = defaults(
        document,
        written.is_empty(),
        only_loopback,
        resources,
        scope,
        report,
    );
    let fallback = [Spanned::new(0..0, RouteDocument::default())];
    let written = if written.is_empty() {
        &fallback
    } else {
        written
    };
    let mut routes: Vec<RoutePolicy> = Vec::new();
    for entry in written {
        let Some(route) = one(entry, &defaults, resources, document, report) else {
            continue;
        };
        let place: Place = if entry.span().is_empty() {
            "http.route".into()
        } else {
            entry.span().into()
        };
        if route.auth == RouteAuth::Public && !only_loopback {
            let sentence = format!("{} is open to everybody who can reach it", route.name);
            report.risk(place.clone(), sentence);
        }
        if routes.iter().any(|other| overlaps(other, &route)) {
            report.refuse(place, "another route matches the same requests");
        }
        routes.push(route);
    }
    warn_of_unused(document, &routes, resources, report);
    routes.sort_by_key(specificity);
    routes
}

fn defaults(
    document: &Document,
    no_routes: bool,
    only_loopback: bool,
    resources: &mut Resources,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Defaults {
    let token = scope.sources.variable("LIMITER_AUTH_TOKEN");
    if token.is_some() && !document.auth.is_empty() {
        report.risk(
            "LIMITER_AUTH_TOKEN",
            "used only where an [auth.NAME] names it",
        );
    }
    let preset = scope.preset;
    let required = preset.is_some_and(super::preset::Preset::requires_credential);
    let auth = if !document.auth.is_empty() && (required || (preset.is_none() && no_routes)) {
        Some(RouteAuth::AnyOf((0..resources.auth.len()).collect()))
    } else if document.auth.is_empty() && (required || token.is_some()) {
        let scheme = auth::default_scheme(token.as_deref(), report);
        resources.auth.push(scheme);
        let any = RouteAuth::AnyOf(vec![resources.auth.len() - 1]);
        (preset.is_some() || no_routes).then_some(any)
    } else if preset.is_some()
        || (no_routes && (only_loopback || scope.sources.allow_unauthenticated))
    {
        Some(RouteAuth::Public)
    } else {
        if no_routes {
            report.refuse_with(
                "http.listener",
                "without authentication only a loopback address is served",
                "set LIMITER_AUTH_TOKEN, add [auth.NAME], or pass --allow-unauthenticated",
            );
        }
        None
    };
    let fill = |list: &mut Vec<LimitPolicy>, policy: LimitPolicy| {
        let at = list.iter().position(|known| known.name == policy.name);
        at.unwrap_or_else(|| {
            list.push(policy);
            list.len() - 1
        })
    };
    let wants = |says: fn(&RouteDocument) -> bool| {
        let routes = document
            .http
            .as_ref()
            .map_or(&[][..], |http| http.route.as_slice());
        no_routes || routes.iter().any(|route| !says(route.get_ref()))
    };
    let limits = preset
        .filter(|_| wants(|route| route.limits.is_some()))
        .and_then(super::preset::Preset::limit)
        .map(|limit| fill(&mut resources.limits, limit));
    let cors = match (preset, resources.cors.len()) {
        // The file lists exactly one: that is the one meant.
        (Some(_), 1) => Some(0),
        (Some(preset), 0) => preset.cors().map(|policy| {
            resources.cors.push(policy);
            0
        }),
        _ => None,
    };
    let headers = preset
        .filter(|_| wants(|route| route.headers.is_some()))
        .map(|_| {
            if resources.headers.len() != 1 {
                resources.headers.push(headers::json_api());
            }
            resources.headers.len() - 1
        });
    let allow = preset.and_then(super::preset::Preset::allow);
    Defaults {
        auth,
        limits: limits.into_iter().collect(),
        cors,
        headers,
        allow,
    }
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
    let host = written
        .host
        .as_ref()
        .and_then(|host| check_host(host, report));
    let path = path(written, report);
    let methods = written.methods.as_ref().map(|list| {
        if list.get_ref().is_empty() {
            report.refuse(list.span(), "admits no method; leave it out to admit all");
        }
        report.values(list.get_ref(), values::method)
    });
    let upstream = match (&written.upstream, resources.upstreams.as_slice()) {
        (Some(name), known) => {
            let known: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
            find(
                name.span().into(),
                name.get_ref(),
                &known,
                "upstream",
                report,
            )
        }
        (None, [_]) => Some(0),
        (None, []) => None,
        (None, _) => {
            report.refuse(
                entry.span(),
                "there are several upstreams: `upstream` must name one",
            );
            None
        }
    };
    let auth = auth_of(entry, defaults, resources, document, report);
    let known: Vec<_> = resources
        .limits
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    let limits = match &written.limits {
        Some(names) => names_of(names)
            .into_iter()
            .filter(|(_, name)| *name != "none")
            .filter_map(|(place, name)| find(place, name, &known, "limits", report))
            .collect(),
        None => defaults.limits.clone(),
    };
    let known: Vec<_> = resources
        .cors
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    let cors = optional(written.cors.as_ref(), &known, "cors", defaults.cors, report);
    let known: Vec<_> = resources
        .headers
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    let headers = optional(
        written.headers.as_ref(),
        &known,
        "headers",
        defaults.headers,
        report,
    );
    let allow = match &written.allow {
        Some(list) => {
            if list.get_ref().is_empty() {
                report.risk(list.span(), "an empty list admits nobody");
            }
            Some(report.values(list.get_ref(), values::network))
        }
        None => defaults.allow.clone(),
    };
    let (path, upstream, auth) = (path?, upstream?, auth?);
    let pattern = match &path {
        PathPattern::Prefix(path) | PathPattern::Exact(path) => path,
    };
    Some(RoutePolicy {
        name: format!("{}{pattern}", host.as_deref().unwrap_or_default()),
        host,
        path,
        methods: methods.unwrap_or_default(),
        upstream,
        auth,
        limits,
        cors,
        headers,
        allow,
    })
}

fn auth_of(
    entry: &Spanned<RouteDocument>,
    defaults: &Defaults,
    resources: &Resources,
    document: &Document,
    report: &mut Report,
) -> Option<RouteAuth> {
    let known: Vec<_> = resources
        .auth
        .iter()
        .map(|known| known.name.as_str())
        .collect();
    let Some(names) = &entry.get_ref().auth else {
        if defaults.auth.is_none() && !entry.span().is_empty() {
            let help = if known.is_empty() {
                "auth = \"none\" makes it public; [auth.NAME] defines a scheme".to_owned()
            } else {
                format!("auth = {known:?}, or auth = \"none\" to make it public")
            };
            report.refuse_with(
                entry.span(),
                "the route does not say who may call: `auth`",
                help,
            );
        }
        return defaults.auth.clone();
    };
    let named = names_of(names);
    if named.iter().any(|(_, name)| *name == "none") {
        if named.len() > 1 {
            report.refuse(
                names.span(),
                "\"none\" stands alone: it makes the route public",
            );
        }
        return Some(RouteAuth::Public);
    }
    if named.is_empty() {
        report.refuse(
            names.span(),
            "names no scheme; \"none\" makes the route public",
        );
        return None;
    }
    // A table that is itself wrong is there all the same; its own error says what to do.
    let count = named.len();
    let found: Vec<usize> = named
        .into_iter()
        .filter(|(_, name)| {
            known.contains(name) || !document.auth.keys().any(|key| key.get_ref() == name)
        })
        .filter_map(|(place, name)| find(place, name, &known, "auth", report))
        .collect();
    (found.len() == count).then_some(RouteAuth::AnyOf(found))
}

fn names_of(written: &Spanned<NamesDocument>) -> Vec<(Place, &str)> {
    match written.get_ref() {
        NamesDocument::One(name) => vec![(written.span().into(), name.as_str())],
        NamesDocument::Many(names) => names
            .iter()
            .map(|name| (name.span().into(), name.get_ref().as_str()))
            .collect(),
    }
}

fn optional(
    written: Option<&Text>,
    known: &[&str],
    table: &str,
    default: Option<usize>,
    report: &mut Report,
) -> Option<usize> {
    match written {
        None => default,
        Some(name) if name.get_ref() == "none" => None,
        Some(name) => find(name.span().into(), name.get_ref(), known, table, report),
    }
}

/// Index of the table that is named.
fn find(
    place: Place,
    name: &str,
    known: &[&str],
    table: &str,
    report: &mut Report,
) -> Option<usize> {
    let found = known.iter().position(|other| *other == name);
    if found.is_none() {
        let message = format!("there is no {table} named {name:?}");
        let nearest = known.iter().min_by_key(|other| distance(name, other));
        match nearest {
            None if table == "upstream" => report.refuse(place, message),
            None => report.refuse_with(place, message, format!("define [{table}.{name}]")),
            Some(nearest) if distance(name, nearest) <= 2 => {
                report.refuse_with(place, message, format!("did you mean {nearest:?}?"));
            }
            Some(_) => {
                report.refuse_with(place, message, format!("there are: {}", known.join(", ")))
            }
        }
    }
    found
}

fn refuse_later(written: &RouteDocument, report: &mut Report) {
    report.later(&[&written.glob], "path, exact");
    report.choice(written.detect.as_ref(), &[("off", ())], &["default"]);
    report.later(
        &[
            &written.scopes,
            &written.validate,
            &written.request_headers,
            &written.response_headers,
            &written.mask_response_fields,
            &written.strip_prefix,
            &written.deprecated,
        ],
        "host, path, exact, methods, upstream, auth, limits, cors, headers, allow",
    );
}

fn check_host(host: &Text, report: &mut Report) -> Option<String> {
    if host.get_ref().starts_with("*.") {
        report.unsupported(
            host.span(),
            "a wildcard host",
            "a whole host name, or none for any",
        );
        return None;
    }
    report.value(host, |text| match values::host_and_port(text) {
        Some((host, None)) => Ok(host),
        _ => Err("expected a host name without port, e.g. \"api.example.com\"".to_owned()),
    })
}

fn path(written: &RouteDocument, report: &mut Report) -> Option<PathPattern> {
    match (&written.path, &written.exact) {
        (Some(_), Some(exact)) => {
            report.refuse(exact.span(), "a route has either `path` or `exact`");
            None
        }
        (None, Some(exact)) => report.value(exact, check_path).map(PathPattern::Exact),
        (Some(prefix), None) => report.value(prefix, check_path).map(|path| {
            let trimmed = path.trim_end_matches('/');
            PathPattern::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
        }),
        (None, None) => Some(PathPattern::Prefix("/".to_owned())),
    }
}

/// A path as requests are compared with it: normalised, so that none can be meant two ways.
fn check_path(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !text.starts_with('/') || !printable || text.contains(['?', '#', '%', '\\', ';']) {
        return Err("expected a path such as \"/api\", without query or escapes".to_owned());
    }
    if text.contains("//")
        || text
            .split('/')
            .any(|segment| segment == "." || segment == "..")
    {
        return Err("a path has no empty, `.` or `..` segments".to_owned());
    }
    if text.contains('*') {
        return Err("a path is matched by whole segments: \"/api\" covers all below it".to_owned());
    }
    Ok(text.to_owned())
}

fn overlaps(left: &RoutePolicy, right: &RoutePolicy) -> bool {
    let methods = match (left.methods.is_empty(), right.methods.is_empty()) {
        (true, true) => true,
        (false, false) => left
            .methods
            .iter()
            .any(|method| right.methods.contains(method)),
        _ => false,
    };
    methods && left.host == right.host && left.path == right.path
}

/// Smaller is more specific: a host, then an exact path, then a longer one, then methods.
fn specificity(route: &RoutePolicy) -> (bool, bool, std::cmp::Reverse<usize>, bool) {
    let (prefix, path) = match &route.path {
        PathPattern::Exact(path) => (false, path),
        PathPattern::Prefix(path) => (true, path),
    };
    (
        route.host.is_none(),
        prefix,
        std::cmp::Reverse(path.len()),
        route.methods.is_empty(),
    )
}

fn warn_of_unused(
    document: &Document,
    routes: &[RoutePolicy],
    resources: &Resources,
    report: &mut Report,
) {
    let mut warn = |name: &Text, used: bool| {
        if !used {
            report.risk(name.span(), "no route uses it");
        }
    };
    for name in document.auth.keys() {
        warn(
            name,
            routes.iter().any(|route| match &route.auth {
                RouteAuth::Public => false,
                RouteAuth::AnyOf(any) => any
                    .iter()
                    .any(|at| resources.auth[*at].name == *name.get_ref()),
            }),
        );
    }
    for name in document.limits.keys() {
        warn(
            name,
            routes.iter().any(|route| {
                route
                    .limits
                    .iter()
                    .any(|at| resources.limits[*at].name == *name.get_ref())
            }),
        );
    }
    for name in document.cors.keys() {
        warn(
            name,
            routes.iter().any(|route| {
                route
                    .cors
                    .is_some_and(|at| resources.cors[at].name == *name.get_ref())
            }),
        );
    }
    for name in document.headers.keys() {
        warn(
            name,
            routes.iter().any(|route| {
                route
                    .headers
                    .is_some_and(|at| resources.headers[at].name == *name.get_ref())
            }),
        );
    }
}
