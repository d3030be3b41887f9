//! Cross-origin requests: true preflights are answered, all others get the headers that let the
//! browser read the answer, refusals included (Fetch standard, "CORS protocol").
//!
//! A request that is no preflight is never refused here: without the headers the browser does it.

use http::{
    HeaderMap, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
    },
};

use crate::{
    policy::{Mode, http::ErrorShape},
    proxy::{compiled::Compiled, compiled_cors::Cors, proof::Target, reply::Reply},
    refusal::Refusal,
};

/// What the answer tells the browser.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::proxy) enum Grant {
    /// The route has no CORS policy.
    #[default]
    None,
    /// Not for this origin, but the answer would differ for another.
    Vary,
    /// Every origin may read it.
    Any,
    /// This origin may read it.
    Origin(HeaderValue),
    /// What the upstream says stays: the policy only counts.
    Upstream,
}

/// What answers to this request carry. In monitor mode every origin is granted, but not with
/// credentials: then an origin that is not admitted gets what the upstream gives it.
pub(in crate::proxy) fn grant(cors: &Cors, headers: &HeaderMap) -> Grant {
    if cors.admits_any() {
        return Grant::Any;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) if cors.admits(origin.as_bytes()) => Grant::Origin(origin.clone()),
        (Some(_), _) if cors.mode == Mode::Monitor && cors.credentials => Grant::Upstream,
        (Some(origin), None) if cors.mode == Mode::Monitor => Grant::Origin(origin.clone()),
        _ => Grant::Vary,
    }
}

/// What a preflight asks that the policy does not admit. `None`: no preflight, or admitted.
pub(in crate::proxy) fn violation(
    cors: &Cors,
    target: &Target,
    headers: &HeaderMap,
) -> Option<Refusal> {
    let announced = target.preflight.as_ref()?;
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin_admitted = origins.next().is_some_and(|origin| cors.admits(origin.as_bytes()))
        && origins.next().is_none();
    let headers_admitted = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().all(|line| {
        line.to_str().is_ok_and(|line| {
            line.split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .all(|name| cors.admits_header(name))
        })
    });
    let admitted = origin_admitted && headers_admitted && cors.admits_method(announced.as_str());
    (!admitted).then_some(Refusal::CorsRefused)
}

/// Whether every `OPTIONS` is answered here, preflight or not, as the server does that the policy
/// stands in for.
pub(in crate::proxy) fn answers_options(policy: &Compiled, method: &Method) -> bool {
    policy.error_shape == ErrorShape::ElizaOs && *method == Method::OPTIONS
}

/// The answer to a preflight that may go on; what [`apply`] sets comes on top.
pub(in crate::proxy) fn answer(cors: &Cors) -> Reply {
    let reply = Reply::empty()
        .with(ACCESS_CONTROL_ALLOW_METHODS, cors.allow_methods.clone())
        .with(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone())
        .with(
            VARY,
            HeaderValue::from_static(
                "access-control-request-method, access-control-request-headers",
            ),
        );
    match &cors.allow_headers {
        Some(headers) => reply.with(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()),
        None => reply,
    }
}

/// Sets the headers of a grant, in place of what the upstream may have sent.
pub(in crate::proxy) fn apply(cors: &Cors, grant: &Grant, headers: &mut HeaderMap) {
    if *grant == Grant::Upstream {
        headers.append(VARY, HeaderValue::from_static("origin"));
        return;
    }
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.remove(name);
    }
    let origin = match grant {
        Grant::None | Grant::Upstream => return,
        Grant::Vary => {
            headers.append(VARY, HeaderValue::from_static("origin"));
            return;
        }
        Grant::Any => HeaderValue::from_static("*"),
        Grant::Origin(origin) => {
            headers.append(VARY, HeaderValue::from_static("origin"));
            origin.clone()
        }
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(expose) = &cors.expose {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}
