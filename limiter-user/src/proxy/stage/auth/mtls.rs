//! Certificates: whose the connection's is, by the names in it. That it is good was checked when
//! the connection was made; that it has not ended since is checked here.

use super::{Asked, Found, Principal};

/// Looks the connection's certificate up. One that is nobody's here is no credential, nor is one
/// that has ended: clients send it whatever they ask for.
pub(super) fn look_up(asked: &Asked<'_>, found: &mut Found) {
    let Some(names) = asked.names.filter(|names| names.not_after() >= asked.unix_seconds) else {
        return;
    };
    found.holder = asked.route.auth.iter().find_map(|scheme| {
        let certificates = asked.policy.auth[*scheme].certificates()?;
        Some(Principal::verified(*scheme, certificates.holder(names)?))
    });
}
