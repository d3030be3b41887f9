//! What every response carries: the route's headers policy, its own edits and the request id;
//! hop-by-hop fields of an upstream's response are gone before.

use http::{HeaderMap, HeaderValue};

use crate::proxy::{
    compiled::{Headers, Route},
    proof::X_REQUEST_ID,
};

/// Applies the policy and the edits of the route, if there is one, and echoes the request id.
pub(in crate::proxy) fn apply(
    policy: Option<&Headers>,
    route: Option<&Route>,
    id: &HeaderValue,
    headers: &mut HeaderMap,
) {
    if let Some(policy) = policy {
        policy.apply(headers);
    }
    if let Some(route) = route {
        route.response_headers.apply(headers);
    }
    headers.insert(X_REQUEST_ID, id.clone());
}
