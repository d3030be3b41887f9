//! The stages of admission: plain functions from policy and earlier proofs to a proof or a reply.
//!
//! Pure and synchronous, with `now` handed in; none knows another, the upstream or the events.
//! Their order is the text of `pipeline.rs`.

pub(super) mod address;
pub(super) mod auth;
pub(super) mod bans;
pub(super) mod client_address;
pub(super) mod cors;
pub(super) mod guard;
pub(super) mod limits;
pub(super) mod media_type;
pub(super) mod older_limits;
pub(super) mod redirect;
pub(super) mod request_id;
pub(super) mod response_headers;
pub(super) mod route;
pub(super) mod target;
pub(super) mod trace;
pub(super) mod transform;
