//! The routes of an ElizaOS server, each with the limits that stand before it there.
//!
//! A route of the file that matches the same requests goes before; a table of the file with the
//! name of one of ours goes in its place.

use super::{
    MAX_UPLOAD_BYTES, Settings, authentication_limit, channel_validation_limit, cross_origin,
    file_system_limit, headers, upload_limit,
};
use crate::{
    config::{
        error::{Place, Report},
        route::{Defaults, Resources, overlaps},
    },
    policy::http::{CorsPolicy, HeadersPolicy, LimitPolicy, PathPattern, RouteAuth, RoutePolicy},
};

/// Name of the upstream that is meant where the file has several.
const UPSTREAM: &str = "elizaos";

/// Media types of what its API reads.
const CONTENT_TYPES: [&str; 3] =
    ["application/json", "multipart/form-data", "application/x-www-form-urlencoded"];

/// Routes that receive files, below which path every request counts.
const UPLOADS: [&str; 2] = ["/api/audio", "/api/media"];

/// Channels, whose names can be guessed.
const CHANNELS: [&str; 2] = ["/api/messaging/channels", "/api/messaging/central-channels"];

/// Files for a channel.
const UPLOAD_GLOBS: [&str; 2] =
    ["/api/messaging/channels/*/upload-media", "/api/messaging/central-channels/*/upload-media"];

/// Calls of the API for which that server asks for no token.
const WITHOUT_TOKEN: [&str; 5] = [
    "/api/auth/login",
    "/api/auth/refresh",
    "/api/auth/register",
    "/api/system/config",
    "/api/system/version",
];

/// What a route of the file gets that says nothing about it: as the API's.
pub(in crate::config) fn fill(
    settings: &Settings,
    defaults: &mut Defaults,
    resources: &mut Resources,
) {
    let cors = cross_origin("api", settings.api_origins.as_deref());
    defaults.cors = Some(cors_at(resources, cors));
    let headers = headers::api(settings.is_production, settings.has_ui);
    defaults.headers = Some(headers_at(resources, headers));
}

/// Adds the routes of that server to those of the file.
pub(in crate::config) fn add(
    settings: &Settings,
    defaults: &Defaults,
    resources: &mut Resources,
    routes: &mut Vec<RoutePolicy>,
    report: &mut Report,
) {
    let Some(upstream) = upstream(resources, report) else {
        return;
    };
    let Some(auth) = defaults.auth.clone() else {
        return;
    };
    let key = defaults.key.clone().unwrap_or_else(|| auth.clone());
    let open = RoutePolicy {
        auth: RouteAuth::Public,
        cors: Some(cors_at(resources, cross_origin("app", settings.origins.as_deref()))),
        headers: Some(headers_at(resources, headers::app(settings.is_production, settings.has_ui))),
        ..RoutePolicy::open(upstream)
    };
    let api = RoutePolicy {
        auth,
        second_auth: defaults.second_auth.clone(),
        limits: defaults.limits.clone(),
        cors: defaults.cors,
        headers: defaults.headers,
        allow: defaults.allow.clone(),
        content_types: CONTENT_TYPES.map(str::to_owned).to_vec(),
        ..RoutePolicy::open(upstream)
    };
    let max_upload_bytes = MAX_UPLOAD_BYTES.max(settings.max_payload_bytes.unwrap_or(0));
    let mut with = |route: &RoutePolicy, limits: &[LimitPolicy]| {
        let mut route = route.clone();
        route.limits.extend(limits.iter().map(|limit| limit_at(resources, limit)));
        route
    };
    let channels = with(&api, &[channel_validation_limit()]);
    let logins = with(&api, &[authentication_limit()]);
    let files = [upload_limit(), file_system_limit()];
    let [uploads, channel_uploads] = [&api, &channels]
        .map(|route| RoutePolicy { max_body_bytes: Some(max_upload_bytes), ..with(route, &files) });
    let prefix = |path: &str| PathPattern::Prefix(path.to_owned());
    let exact = |path: &str| PathPattern::Exact(path.to_owned());
    let glob = |path: &str| PathPattern::Glob(path.to_owned());
    let mut add = |path: PathPattern, like: &RoutePolicy| {
        let route = RoutePolicy { name: path.text().to_owned(), path, ..like.clone() };
        if !routes.iter().any(|other| overlaps(other, &route)) {
            routes.push(route);
        }
    };
    add(prefix("/api"), &api);
    for path in UPLOADS {
        add(prefix(path), &uploads);
    }
    for path in CHANNELS {
        add(prefix(path), &channels);
    }
    for path in UPLOAD_GLOBS {
        add(glob(path), &channel_uploads);
    }
    add(prefix("/api/auth"), &logins);
    if defaults.key.is_some() {
        // How one comes by a token, and what pages ask before that.
        let [any, login] = [&api, &logins].map(|route| RoutePolicy {
            auth: key.clone(),
            second_auth: Vec::new(),
            ..route.clone()
        });
        for path in WITHOUT_TOKEN {
            let is_login = path.starts_with("/api/auth/");
            add(exact(path), if is_login { &login } else { &any });
        }
    }
    for path in ["/health", "/healthz"] {
        add(exact(path), &open);
    }
    add(prefix("/socket.io"), &open);
    if settings.has_ui {
        add(prefix("/"), &open);
    }
}

/// The upstream of that name, or the only one.
fn upstream(resources: &Resources, report: &mut Report) -> Option<usize> {
    let named = resources.upstreams.iter().position(|known| known.name == UPSTREAM);
    match (named, resources.upstreams.len()) {
        (Some(at), _) => Some(at),
        (None, 0) => None,
        (None, 1) => Some(0),
        (None, _) => {
            report.refuse_with(
                Place::from("http.upstream"),
                "there are several: which is the ElizaOS server?",
                format!("name = {UPSTREAM:?}"),
            );
            None
        }
    }
}

fn limit_at(resources: &mut Resources, policy: &LimitPolicy) -> usize {
    let known = resources.limits.iter().position(|known| known.name == policy.name);
    known.unwrap_or_else(|| push(&mut resources.limits, policy.clone()))
}

fn cors_at(resources: &mut Resources, policy: CorsPolicy) -> usize {
    let known = resources.cors.iter().position(|known| known.name == policy.name);
    known.unwrap_or_else(|| push(&mut resources.cors, policy))
}

fn headers_at(resources: &mut Resources, policy: HeadersPolicy) -> usize {
    let known = resources.headers.iter().position(|known| known.name == policy.name);
    known.unwrap_or_else(|| push(&mut resources.headers, policy))
}

fn push<T>(list: &mut Vec<T>, item: T) -> usize {
    list.push(item);
    list.len() - 1
}
