//! A route's list of client addresses: who may call it at all.

use crate::{
    proxy::{compiled::Route, proof::Client, reply::Reply},
    refusal::Refusal,
};

/// Refuses a client that the route's `allow` does not name; trusted ones are not excepted, since
/// the list says who the route is for.
pub(in crate::proxy) fn by_route(route: &Route, client: &Client) -> Result<(), Reply> {
    match &route.allow {
        Some(allow) if !allow.iter().any(|prefix| prefix.contains(&client.address)) => {
            Err(Refusal::ForbiddenAddress.into())
        }
        _ => Ok(()),
    }
}
