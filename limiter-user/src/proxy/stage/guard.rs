//! The guard: a client address's budget of failed attempts.
//!
//! Whether a credential is known is one digest and one lookup, cheaper than any answer, so it is
//! looked up even beyond the budget: a valid one behind a shared address goes on being served,
//! and an invalid one is answered as `guarded`, without saying that it was invalid.

use crate::{
    limits::Key,
    proxy::{compiled::Guard, proof::Client},
    refusal::Refusal,
};

/// What a failed attempt is answered with now; it is charged to the budget.
pub(in crate::proxy) fn failed(guard: &Guard, client: &Client, now_ns: u64) -> Refusal {
    if client.trusted {
        return Refusal::InvalidCredential;
    }
    let verdict = guard.failures.charge(Key::Address(client.key), now_ns);
    if verdict.decision.allowed { Refusal::InvalidCredential } else { Refusal::Guarded }
}
