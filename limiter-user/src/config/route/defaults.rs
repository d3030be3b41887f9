//! What a route gets for everything that it does not say: from the preset, the only table of its
//! kind, or `LIMITER_AUTH_TOKEN`.

use ipnet::IpNet;

use super::{
    super::{
        Scope, auth,
        document::{Document, http::RouteDocument},
        error::Report,
        headers,
        preset::Preset,
    },
    Resources,
};
use crate::policy::http::{LimitPolicy, RouteAuth};

/// What a route gets for everything that it does not say.
pub(super) struct Defaults {
    /// `None`: a route must say it.
    pub(super) auth: Option<RouteAuth>,
    pub(super) limits: Vec<usize>,
    pub(super) cors: Option<usize>,
    pub(super) headers: Option<usize>,
    pub(super) allow: Option<Vec<IpNet>>,
}

pub(super) fn of(
    document: &Document,
    no_routes: bool,
    only_loopback: bool,
    resources: &mut Resources,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Defaults {
    let token = scope.sources.variable("LIMITER_AUTH_TOKEN");
    if token.is_some() && !document.auth.is_empty() {
        report.risk("LIMITER_AUTH_TOKEN", "used only where an [auth.NAME] names it");
    }
    let preset = scope.preset;
    let required = preset.is_some_and(Preset::requires_credential);
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
        let routes = document.http.as_ref().map_or(&[][..], |http| http.route.as_slice());
        no_routes || routes.iter().any(|route| !says(route.get_ref()))
    };
    let limits = preset
        .filter(|_| wants(|route| route.limits.is_some()))
        .and_then(Preset::limit)
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
    let headers = preset.filter(|_| wants(|route| route.headers.is_some())).map(|_| {
        if resources.headers.len() != 1 {
            resources.headers.push(headers::json_api());
        }
        resources.headers.len() - 1
    });
    let allow = preset.and_then(Preset::allow);
    Defaults { auth, limits: limits.into_iter().collect(), cors, headers, allow }
}
