//! OAuth 2.0 bearer tokens in the form of RFC 7519, checked by RFC 8725 and RFC 9068.
//!
//! In: the token as presented, the rules, the keys and the time; out: claims or why not. The parse
//! is our own, on top of aws-lc-rs: the usual library accepts what a strict reader must not (names
//! that occur twice, spare bits of base64, unknown extensions in `crit`), keeps the algorithm apart
//! from the key, and brings six crates for what is a few hundred lines here.

mod algorithm;
mod claims;
mod key;
mod revoked;
mod token;
#[cfg(test)]
mod vectors;

pub use algorithm::{Algorithm, Family};
pub use claims::{Claims, Rules};
pub use key::{Key, Public};
pub use revoked::{Revoked, RevokedList};
pub use token::{Flaw, Jws, MAX_BYTES, Token};
