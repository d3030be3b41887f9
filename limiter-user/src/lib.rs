//! `limiter`: the agent, the proxy and the command line.
//!
//! Three flows, each readable top to bottom in one file:
//!
//! ```text
//! packet   limiter-common/src/decide.rs   headers -> decide(tables, now) -> Verdict
//! request  proxy/pipeline.rs              admit (stages in order) -> Cleared -> upstream
//! config   config.rs                      file -> Document -> Policy -> kernel image, HTTP policy
//! ```

pub mod admin;
mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod events;
pub mod kernel;
pub mod keys;
pub mod limits;
pub mod link;
pub mod policy;
pub mod proxy;
pub mod refusal;
pub mod store;
mod sys;
