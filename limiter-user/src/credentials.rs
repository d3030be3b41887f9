//! What proves who calls: tokens, signatures, certificates, and what keeps them from being repeated.
//!
//! In: bytes that a peer sent, keys as the policy holds them, the time; out: whether they belong
//! together, and whose they are. Knows neither files nor sockets, and reads no clock.

pub mod base64url;
pub mod certificate;
mod der;
pub mod digest;
mod fields;
pub mod fuzzing;
pub mod json;
pub mod jwks;
pub mod jwt;
pub mod replay;
pub mod signature;
pub mod spki;
pub mod webhook;
