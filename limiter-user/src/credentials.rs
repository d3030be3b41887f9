//! Credentials: what proves who a request speaks for, read and checked.
//!
//! In: text and bytes as presented, keys as configured, and `now`; out: claims or why not. Pure:
//! knows neither the proxy, the configuration nor a clock, and sends nothing.

pub mod base64url;
pub mod json;
pub mod jwks;
pub mod jwt;
pub mod spki;
