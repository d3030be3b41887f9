//! The memory that limits are counted in, as the agent holds it: for whichever proxy counts, and in
//! a file of the state directory for the agent that starts after this one.
//!
//! The agent copies what is counted, and never looks at what it says.

use std::{io, os::fd::OwnedFd, path::Path, rc::Rc};

use super::{Agent, cookies::boot};
use crate::limits::{arena, kept};

/// In the state directory.
const FILE: &str = "limits";

impl Agent {
    /// Memory for limits to be counted in: what an earlier agent's proxy has, else what was kept
    /// when it ended, unless its layout is another; without any each proxy counts in its own.
    pub(super) fn limiter_memory(&self, earlier: Option<OwnedFd>) -> Option<Rc<OwnedFd>> {
        let path = self.inner.borrow().policy.agent.state.join(FILE);
        let memory = in_use(earlier).or_else(|| left(&path)).or_else(new).map(Rc::new);
        // Also what could not be read, or is older than what is in use.
        kept::remove(&path).unwrap_or_else(|error| log::warn!("{}: {error}", path.display()));
        self.inner.borrow_mut().limiter_memory.clone_from(&memory);
        memory
    }

    /// Keeps what was counted for the next agent, once no proxy counts.
    pub(super) fn keep_limits(&self) {
        let inner = self.inner.borrow();
        let Some(memory) = &inner.limiter_memory else { return };
        let path = inner.policy.agent.state.join(FILE);
        if let Err(error) = boot().and_then(|boot| kept::save(memory, &path, &boot)) {
            log::warn!("limits will begin anew: {}: {error}", path.display());
        }
    }
}

fn in_use(earlier: Option<OwnedFd>) -> Option<OwnedFd> {
    let memory = earlier?;
    let checked = arena::check(&memory);
    checked.inspect_err(|error| log::warn!("limits begin anew: {error}")).ok().map(|()| memory)
}

fn left(path: &Path) -> Option<OwnedFd> {
    let found = boot().and_then(|boot| kept::load(path, &boot));
    found.inspect_err(|error| log::warn!("limits begin anew: {}: {error}", path.display())).ok()?
}

fn new() -> Option<OwnedFd> {
    let mut secret = [0; 16];
    let made = aws_lc_rs::rand::fill(&mut secret).map_err(io::Error::other).and_then(|()| {
        let words = u128::from_ne_bytes(secret);
        #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
        arena::create([words as u64, (words >> 64) as u64])
    });
    made.inspect_err(|error| log::warn!("limits will not outlive the proxy: {error}")).ok()
}
