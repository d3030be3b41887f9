//! Limits and bans that hosts share through Redis or Valkey.
//!
//! In: a policy, and requests to be counted; out: decisions, or that the store is lost. Every host
//! runs the same scripts there, which decide and count in one step by the server's clock. Never
//! waits longer than the policy says, never sends who a client is in clear, and never connects
//! while a request waits.

pub mod bans;
pub mod charge;
mod connection;
pub mod fuzzing;
mod health;
mod line;
mod refusals;
mod script;
#[cfg(test)]
mod tests;

pub use self::{
    connection::{StoreError, Target},
    health::Health,
    line::Line,
};
