//! What `check` warns about: routes that no request reaches, credentials on plain connections.
//!
//! Asks the very router that decides about requests.

use super::{
    super::error::{Place, Report},
    is_hidden,
};
use crate::policy::{
    http::RoutePolicy,
    listener::ListenerPolicy,
    routing::{Router, witness},
};

/// `places` are those of `routes`.
pub(super) fn warn(
    routes: &[RoutePolicy],
    places: &[Place],
    listeners: &[ListenerPolicy],
    report: &mut Report,
) {
    let finder = Router::new(routes.iter().map(|route| (route.host.as_deref(), &route.path)));
    for (number, (route, place)) in routes.iter().zip(places).enumerate() {
        if is_hidden(&routes[..number], route) {
            let sentence = "no request can match it: one before it is for the same requests";
            report.risk(place.clone(), sentence);
        }
        let (host, path) = witness(route.host.as_deref(), &route.path);
        let found = finder.find(&host, &path).map(|index| &routes[index]);
        if let Some(other) = found
            && (&other.host, &other.path) != (&route.host, &route.path)
        {
            let sentence = format!("no request can match it: {} is more specific", other.name);
            report.risk(place.clone(), sentence);
        }
        if !route.methods.is_empty() && route.methods.iter().all(|method| method == "CONNECT") {
            report.risk(place.clone(), "no request can match it: CONNECT is always refused");
        }
    }
    let secured = routes.iter().find(|route| !route.auth.schemes().is_empty());
    if let Some(route) = secured {
        let is_open = |listener: &&ListenerPolicy| {
            listener.tls.is_none() && !listener.redirect_https && !listener.address.is_local()
        };
        for listener in listeners.iter().filter(is_open) {
            let sentence = format!(
                "{}: whoever is on the way can read the credentials for {}: no TLS",
                listener.address, route.name
            );
            report.risk("http.listener", sentence);
        }
    }
}
