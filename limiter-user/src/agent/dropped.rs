//! What the kernel dropped, turned into events; and a ledger of what was told, in the runtime
//! directory, so that the next agent goes on where a killed one was.

use std::{fs, io, net::IpAddr, path::Path, sync::Arc};

use limiter_common::{
    maps::MAX_INTERFACES,
    report::Counter,
    verdict::{Action, Verdict},
};

use super::{Agent, Inner};
use crate::{
    clock,
    events::{Event, Source},
    kernel::Ledger,
    policy::Mode,
};

/// Name of the ledger in the runtime directory.
const LEDGER: &str = "drops.ledger";

/// Source (`None`: it is not known), verdict, how much, and where it came in if that is known.
type Told = (Option<IpAddr>, Verdict, Counter, Option<Arc<str>>);

impl Agent {
    /// What the kernel dropped since the last look. `pending`: also what is still gathering, and
    /// what was lost.
    pub(super) fn collect_drops(&self, pending: bool) {
        let mut told: Vec<Told> = Vec::new();
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            if let Some(kernel) = inner.kernel.as_mut() {
                kernel.flush_diagnostics();
            }
            let Some(drops) = inner.drops.as_mut() else { return };
            let mut names: Vec<Option<Arc<str>>> = vec![None; MAX_INTERFACES as usize];
            let mut name = |slot: u32| {
                let known = names.get_mut(slot as usize)?;
                let named = || inner.kernel.as_ref().map(|it| it.interface_name(slot).into());
                *known = known.take().or_else(named);
                known.clone()
            };
            told.extend(drops.held().into_iter().map(|(verdict, sum)| (None, verdict, sum, None)));
            let mut tell = |dropped: crate::kernel::Dropped| {
                inner.top.dropped(&dropped);
                let interface = name(dropped.interface);
                told.push((Some(dropped.source), dropped.verdict, dropped.counter, interface));
            };
            if pending {
                drops.pending(&mut tell);
            } else {
                drops.records(&mut tell);
            }
            if let (true, Some(kernel)) = (pending, &inner.kernel) {
                // Their records found no room: the source is not known, the totals add up.
                for lost in drops.lost(&kernel.counts().1) {
                    let interface = kernel.interface_name(lost.interface).into();
                    told.push((None, lost.verdict, lost.counter, Some(interface)));
                }
            }
        }
        if told.is_empty() {
            return;
        }
        let now = clock::unix_ns();
        for (source, verdict, Counter { packets, bytes }, interface) in told {
            let source = source.map_or(Source::Other, Source::Address);
            let mode = mode_of(verdict.action);
            self.publish(Event {
                interface,
                ..Event::packets(now, source, verdict.reason, packets, bytes, mode)
            });
        }
        self.save_ledger();
    }

    /// Notes what was told. What cannot be written is only missed if this agent is killed.
    pub(super) fn save_ledger(&self) {
        let inner = self.inner.borrow();
        let Inner { drops: Some(drops), aggregate, policy, .. } = &*inner else { return };
        let held = aggregate.held_packets().map(|(reason, mode, counter)| {
            let action = match mode {
                Mode::Enforce => Action::Drop,
                Mode::Monitor => Action::Monitor,
            };
            (Verdict { action, reason }, counter)
        });
        if let Err(error) = write(&policy.agent.runtime, &drops.ledger(held)) {
            log::debug!("the ledger of drops cannot be written: {error}");
        }
    }
}

const fn mode_of(action: Action) -> Mode {
    match action {
        Action::Monitor => Mode::Monitor,
        Action::Drop | Action::Pass | Action::Tx => Mode::Enforce,
    }
}

/// What an earlier agent left, if it can be read.
pub(super) fn read_ledger(runtime: &Path) -> Option<Ledger> {
    postcard::from_bytes(&fs::read(runtime.join(LEDGER)).ok()?).ok()
}

/// As a whole or not at all. Not synced: after a crash of the host the maps are gone too.
fn write(runtime: &Path, ledger: &Ledger) -> io::Result<()> {
    let bytes = postcard::to_stdvec(ledger).map_err(io::Error::other)?;
    let fresh = runtime.join("drops.ledger.new");
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, runtime.join(LEDGER))
}
