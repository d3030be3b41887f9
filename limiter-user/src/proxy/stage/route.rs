//! Which route a request takes: the most specific host and path decide, then the method.
//!
//! A less specific route never catches what a more specific one refuses by method.

use http::{Method, header::ALLOW};

use crate::{
    policy::http::PathPattern,
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
    let group = find(policy, target.host(), target.path());
    if let Some(alternate) = target.alternate()
        && !same(group, find(policy, target.host(), alternate))
    {
        return Err(Refusal::MalformedRequest.into());
    }
    let Some(group) = group else {
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

fn by_method(policy: &Compiled, group: &RouteGroup, method: &Method) -> Option<usize> {
    group.routes.iter().copied().find(|index| {
        let methods = &policy.routes[*index].methods;
        methods.is_empty()
            || methods.contains(method)
            || (*method == Method::HEAD && methods.contains(&Method::GET))
    })
}

fn find<'a>(policy: &'a Compiled, host: &str, path: &str) -> Option<&'a RouteGroup> {
    policy.groups.iter().find(|group| {
        group.host.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
            && matches(&group.path, path)
    })
}

fn same(one: Option<&RouteGroup>, other: Option<&RouteGroup>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => std::ptr::eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

fn matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => path == exact,
        PathPattern::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_whole_segments() {
        let prefix = |text: &str| PathPattern::Prefix(text.into());
        for (pattern, path, expected) in [
            ("/", "/", true),
            ("/", "/x/y", true),
            ("/", "*", false),
            ("/api", "/api", true),
            ("/api", "/api/", true),
            ("/api/", "/api", true),
            ("/api", "/api/x", true),
            ("/api", "/apix", false),
            ("/api", "/API", false),
        ] {
            assert_eq!(matches(&prefix(pattern), path), expected, "{pattern} {path}");
        }
        let exact = PathPattern::Exact("/a".into());
        assert!(matches(&exact, "/a") && !matches(&exact, "/a/"));
    }
}
