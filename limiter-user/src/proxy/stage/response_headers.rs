//! What every response carries: the route's headers policy and the request id; hop-by-hop fields
//! of an upstream's response are gone before.

use http::{HeaderMap, HeaderValue};

use crate::proxy::{compiled::Headers, proof::X_REQUEST_ID};

/// Applies the policy, if the route has one, and echoes the request id.
pub(in crate::proxy) fn apply(policy: Option<&Headers>, id: &HeaderValue, headers: &mut HeaderMap) {
    if let Some(policy) = policy {
        for name in &policy.remove {
            headers.remove(name);
        }
        for (name, value) in &policy.set {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(X_REQUEST_ID, id.clone());
}
