//! Work for signatures that turn out to be wrong: bounded for each address and scheme before any is
//! checked.

use super::Asked;
use crate::{limits::Key, proxy::reply::Reply};

/// Before a signature is checked.
pub(super) fn admit(asked: &Asked<'_>, scheme: usize) -> Result<(), Reply> {
    let (client, policy) = (asked.client, asked.policy);
    let is_known = policy.known.has_any(Key::address(client.key), asked.now_ns);
    let Some(whose) = whose(asked, scheme) else { return Ok(()) };
    policy.guard.may_check(client.key, is_known, whose, asked.now_ns).map_err(super::guarded)
}

/// A signature was checked, and wrong.
pub(super) fn done_in_vain(asked: &Asked<'_>, scheme: usize) {
    if let Some(whose) = whose(asked, scheme) {
        asked.policy.guard.checked_in_vain(whose, asked.now_ns);
    }
}

/// An address together with a scheme; `None`: nothing is counted.
fn whose<'a>(asked: &Asked<'a>, scheme: usize) -> Option<Key<'a>> {
    let client = asked.client;
    (!client.trusted).then(|| asked.policy.auth[scheme].work_of(client.key))
}
