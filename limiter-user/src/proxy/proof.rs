//! What stages prove and later ones rely on: types (and how
//! one is recognised), so that no stage knows another.

pub(super) use super::stage::{
    auth::{Principal, guarded, hide, hide_trailers, own_bearer},
    client_address::Client,
    cors::Grant,
    limits::Quota,
    request_id::X_REQUEST_ID,
    target::Target,
};
