//! The guard: a client address's budget of failed attempts.
//!
//! Whether a credential is known is one digest and one lookup, cheaper than any answer, so it is
//! looked up even beyond the budget: a valid one behind a shared address goes on being served,
//! and an invalid one is answered as `guarded`, without saying that it was invalid.

use crate::{
    limits::Key,
    proxy::{compiled_guard::Guard, proof::Client},
};

/// Charges a failed attempt to the budget: `Ok` while there is some, else until when there will be
/// again, in ns from now.
pub(in crate::proxy) fn failed(guard: &Guard, client: &Client, now_ns: u64) -> Result<(), u64> {
    if client.trusted {
        return Ok(());
    }
    let decision = guard.failures.charge(Key::address(client.key), 1, now_ns).verdict.decision;
    if decision.allowed { Ok(()) } else { Err(decision.retry_after_ns) }
}
