//! Tables that no route names: most likely a route was meant to.

use super::{
    super::{
        document::{Document, Text},
        error::Report,
    },
    Resources,
};
use crate::policy::http::{RouteAuth, RoutePolicy};

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
            routes.iter().any(|route| match &route.auth {
                RouteAuth::Public => false,
                RouteAuth::AnyOf(any) => {
                    any.iter().any(|at| resources.auth[*at].name == *name.get_ref())
                }
            }),
        );
    }
    for name in document.limits.keys() {
        warn(
            name,
            routes.iter().any(|route| {
                route.limits.iter().any(|at| resources.limits[*at].name == *name.get_ref())
            }),
        );
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
}
