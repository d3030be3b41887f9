//! What proves who calls: signatures, certificates and what protects them from being repeated.
//!
//! In: bytes that a peer sent, keys as the policy holds them, the time; out: whether they belong
//! together, and whose they are. Knows neither files nor sockets, and reads no clock.

pub mod certificate;
mod der;
pub mod digest;
pub mod replay;
pub mod signature;
pub mod webhook;
