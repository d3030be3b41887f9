//! What a route gets for everything that it does not say: from the preset, the only table of its
//! kind, or `LIMITER_AUTH_TOKEN`.

use ipnet::IpNet;

use super::{
    super::{
        Scope, auth,
        document::{Document, http::RouteDocument},
        error::Report,
        headers,
        preset::{Preset, elizaos},
    },
    Resources,
};
use crate::policy::http::{LimitPolicy, RouteAuth};

/// What a route gets for everything that it does not say.
pub(in crate::config) struct Defaults {
    /// `None`: a route must say it.
    pub(in crate::config) auth: Option<RouteAuth>,
    /// Beside that, where it is a key: tokens.
    pub(in crate::config) second_auth: Vec<usize>,
    /// `auth` without tokens, where they are asked for.
    pub(in crate::config) key: Option<RouteAuth>,
    pub(in crate::config) limits: Vec<usize>,
    pub(in crate::config) cors: Option<usize>,
    pub(in crate::config) headers: Option<usize>,
    pub(in crate::config) allow: Option<Vec<IpNet>>,
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
    if let Some(settings) = &scope.elizaos {
        return of_elizaos(document, settings, only_loopback, resources, scope, report);
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
    Defaults {
        auth,
        second_auth: Vec::new(),
        key: None,
        limits: limits.into_iter().collect(),
        cors,
        headers,
        allow,
    }
}

/// The table of the file with this name, or the preset's own.
fn fill(list: &mut Vec<LimitPolicy>, policy: LimitPolicy) -> usize {
    let at = list.iter().position(|known| known.name == policy.name);
    at.unwrap_or_else(|| {
        list.push(policy);
        list.len() - 1
    })
}

/// As the API of an ElizaOS server, which is open where no token is set: then only to this host.
fn of_elizaos(
    document: &Document,
    settings: &elizaos::Settings,
    only_loopback: bool,
    resources: &mut Resources,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Defaults {
    const TOKEN: &str = "ELIZA_SERVER_AUTH_TOKEN";
    let token = [TOKEN, "LIMITER_AUTH_TOKEN"]
        .into_iter()
        .find_map(|name| Some((name, scope.sources.variable(name)?)));
    let key = if !document.auth.is_empty() {
        if scope.sources.variable(TOKEN).is_some() {
            report.risk(TOKEN, "used only where an [auth.NAME] names it");
        }
        Some((0..resources.auth.len()).collect())
    } else if let Some((name, token)) = token {
        resources.auth.push(auth::shared_token_scheme(name, &token, report));
        Some(vec![resources.auth.len() - 1])
    } else {
        None
    };
    let first_token = resources.auth.len();
    resources.auth.extend(elizaos::token_schemes(scope, report));
    let tokens: Vec<usize> = (first_token..resources.auth.len()).collect();
    if key.is_some() || !tokens.is_empty() {
        // Nobody comes in without either.
    } else if only_loopback || scope.sources.allow_unauthenticated {
        report.risk(TOKEN, "is not set: whoever reaches the API may call it");
    } else {
        report.refuse_with(
            "http.listener",
            "without authentication only a loopback address is served",
            "set ELIZA_SERVER_AUTH_TOKEN, add [auth.NAME], or pass --allow-unauthenticated",
        );
    }
    let asks_tokens = !tokens.is_empty();
    let key = key.map_or(RouteAuth::Public, RouteAuth::AnyOf);
    let (auth, second_auth) = if key == RouteAuth::Public && asks_tokens {
        (RouteAuth::AnyOf(tokens), Vec::new())
    } else {
        (key.clone(), tokens)
    };
    let limits =
        scope.preset.and_then(Preset::limit).map(|limit| fill(&mut resources.limits, limit));
    let mut defaults = Defaults {
        auth: Some(auth),
        second_auth,
        key: asks_tokens.then_some(key),
        limits: limits.into_iter().collect(),
        cors: None,
        headers: None,
        allow: None,
    };
    elizaos::fill(settings, &mut defaults, resources);
    defaults
}
