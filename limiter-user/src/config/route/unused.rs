//! Tables that no route names: most likely a route was meant to. And limits that routes name where
//! they count nobody.

use super::{
    super::{
        document::{Document, Text},
        error::Report,
    },
    Resources,
};
use crate::policy::{
    Mode,
    auth::{AuthKind, AuthPolicy},
    http::{RouteAuth, RoutePolicy},
    limits::{AppliesTo, Counting},
};

pub(super) fn warn(
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
            routes.iter().any(|route| {
                let schemes = route.auth.schemes();
                schemes.iter().any(|at| resources.auth[*at].name == *name.get_ref())
            }),
        );
    }
    for name in document.limits.keys() {
        warn(name, limited_by(name, routes, resources).next().is_some());
    }
    for name in document.cors.keys() {
        warn(
            name,
            routes.iter().any(|route| {
                route.cors.is_some_and(|at| resources.cors[at].name == *name.get_ref())
            }),
        );
    }
    for name in document.headers.keys() {
        warn(
            name,
            routes.iter().any(|route| {
                route.headers.is_some_and(|at| resources.headers[at].name == *name.get_ref())
            }),
        );
    }
    for name in document.limits.keys() {
        let counts_nobody = resources.limits.iter().any(|limit| {
            limit.name == *name.get_ref()
                && limit.applies_to == AppliesTo::Unauthenticated
                && limit.count != Counting::Failures
        });
        let mut limited = limited_by(name, routes, resources).peekable();
        if counts_nobody
            && limited.peek().is_some()
            && limited.all(|route| names_everybody(&route.auth, resources))
        {
            let why = "counts nobody: it applies to unauthenticated requests, and its routes let \
                       in none; applies_to = \"all\"";
            report.risk(name.span(), why);
        }
    }
}

/// The routes that name this limit.
fn limited_by<'a>(
    name: &'a Text,
    routes: &'a [RoutePolicy],
    resources: &'a Resources,
) -> impl Iterator<Item = &'a RoutePolicy> {
    routes.iter().filter(move |route| {
        route.limits.iter().any(|at| resources.limits[*at].name == *name.get_ref())
    })
}

/// Whether whoever is let in has a name. A server that is asked may let in without one.
fn names_everybody(auth: &RouteAuth, resources: &Resources) -> bool {
    let names = |scheme: &AuthPolicy| {
        scheme.mode == Mode::Enforce && !matches!(scheme.kind, AuthKind::Forward(_))
    };
    !auth.is_open() && auth.schemes().iter().all(|at| names(&resources.auth[*at]))
}
