//! Certificates: whose the connection's is, by the names in it. That it is good was checked when
//! the connection was made; that it has not ended since is checked here.

use super::{Asked, Found, Presented, Principal};
use crate::proxy::reply::Reply;

/// Looks the connection's certificate up. One that is nobody's here is no credential: clients send
/// it whatever they ask for.
pub(super) fn look_up(asked: &Asked<'_>, found: &mut Found) -> Result<(), Reply> {
    let Some(names) = asked.names else { return Ok(()) };
    let holder = asked.route.auth.iter().find_map(|scheme| {
        let certificates = asked.policy.auth[*scheme].certificates()?;
        Some(Principal::verified(*scheme, certificates.holder(names)?))
    });
    match holder {
        Some(_) if names.not_after() < asked.unix_seconds => {
            found.add(Presented::Lapsed, asked.policy)
        }
        Some(principal) => found.add(Presented::Valid(principal), asked.policy),
        None => Ok(()),
    }
}
