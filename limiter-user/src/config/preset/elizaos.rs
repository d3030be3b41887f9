//! The `elizaos` preset: the routes of an ElizaOS server, and what each requires.
//!
//! In: that server's own environment variables; out: routes with its limits, headers and
//! cross-origin policies, each under a name that a table in the file can take over. Where that
//! server lets in more than its documentation says, the documentation is kept.

mod environment;
mod headers;
mod routes;
mod tokens;

pub(in crate::config) use self::{
    environment::{Settings, read, refuse_loop},
    routes::{add as add_routes, fill},
    tokens::schemes as token_schemes,
};

use std::time::Duration;

use super::super::cors;
use crate::policy::{
    Mode, Rate,
    http::{CorsOrigins, CorsPolicy, LimitPolicy, OriginPattern},
    limits::{Algorithm, Counting},
};

/// Failed attempts of a client address: 10 in 15 minutes, as that server allows logins.
pub(in crate::config) const FAILURES: Rate = Rate { count: 10, period: Duration::from_mins(15) };

/// Bytes of a request body where `EXPRESS_MAX_PAYLOAD` says nothing: `2mb`.
pub(in crate::config) const MAX_PAYLOAD_BYTES: u64 = 2 << 20;

/// Bytes of an uploaded file (50 MiB there), with room for the form around it.
const MAX_UPLOAD_BYTES: u64 = (50 << 20) + (64 << 10);

/// The limit of every call of the API.
pub(super) fn api_limit() -> LimitPolicy {
    limit("api", 1_000, 15)
}

fn file_system_limit() -> LimitPolicy {
    limit("file-system", 100, 5)
}

fn upload_limit() -> LimitPolicy {
    limit("upload", 50, 15)
}

/// Of logins that fail, beside those that the guard counts.
fn authentication_limit() -> LimitPolicy {
    LimitPolicy { count: Counting::Failures, ..limit("authentication", 10, 15) }
}

/// Of calls for channels that fail: whoever guesses their names.
fn channel_validation_limit() -> LimitPolicy {
    LimitPolicy { count: Counting::Failures, ..limit("channel-validation", 200, 10) }
}

fn limit(name: &str, count: u64, minutes: u64) -> LimitPolicy {
    let rate = Rate { count, period: Duration::from_mins(minutes) };
    LimitPolicy::by_client(name, Algorithm::SlidingWindow, rate)
}

/// Who may read answers: these origins, with credentials; or every one, then without.
fn cross_origin(name: &str, origins: Option<&[OriginPattern]>) -> CorsPolicy {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    let mut expose = cors::default_expose();
    expose.insert(0, "x-total-count".to_owned());
    CorsPolicy {
        name: name.to_owned(),
        credentials: origins.is_some(),
        origins: origins.map_or(CorsOrigins::Any, |list| CorsOrigins::List(list.to_vec())),
        methods: names(&["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        headers: names(&["content-type", "authorization", "x-api-key"]),
        expose,
        max_age: cors::DEFAULT_MAX_AGE,
        mode: Mode::Enforce,
    }
}
