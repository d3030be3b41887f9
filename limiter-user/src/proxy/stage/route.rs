//! Which route a request takes: the most specific host and path decide, then the method.
//!
//! A less specific route never catches what a more specific one refuses by method.

use http::{Method, header::ALLOW};

use crate::{
    proxy::{
        compiled::{Compiled, RouteGroup},
        proof::Target,
        reply::Reply,
    },
    refusal::Refusal,
};

/// Index of the route for this target and method. A preflight takes the route of the method that
/// it announces, if that route answers preflights.
pub(in crate::proxy) fn select(
    policy: &Compiled,
    target: &Target,
    method: &Method,
) -> Result<usize, Reply> {
    let find = |path: &str| {
        if policy.ignore_path_case && path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            policy.router.find(target.host(), &path.to_ascii_lowercase())
        } else {
            policy.router.find(target.host(), path)
        }
    };
    let place = find(target.path());
    if let Some(alternate) = target.alternate()
        && find(alternate) != place
    {
        return Err(Refusal::MalformedRequest.into());
    }
    let Some(group) = place.map(|place| &policy.groups[place]) else {
        return Err(Refusal::NotFound.into());
    };
    if let Some(announced) = &target.preflight {
        let answers = |index: &usize| policy.routes[*index].cors.is_some();
        let route = by_method(policy, group, announced)
            .filter(answers)
            .or_else(|| group.routes.iter().copied().find(answers));
        if let Some(route) = route {
            return Ok(route);
        }
    }
    by_method(policy, group, method)
        .ok_or_else(|| Reply::refuse(Refusal::MethodNotAllowed).with(ALLOW, group.allow.clone()))
}

/// The route that names the method, or else GET for HEAD, or else none. TRACE must be named: it
/// gives away what is added to requests here.
fn by_method(policy: &Compiled, group: &RouteGroup, method: &Method) -> Option<usize> {
    let rank = |index: usize| {
        let methods = &policy.routes[index].methods;
        if methods.contains(method) {
            Some(0)
        } else if *method == Method::HEAD && methods.contains(&Method::GET) {
            Some(1)
        } else {
            (methods.is_empty() && *method != Method::TRACE).then_some(2)
        }
    };
    let ranked = group.routes.iter().filter_map(|index| Some((rank(*index)?, *index)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, index)| index)
}
