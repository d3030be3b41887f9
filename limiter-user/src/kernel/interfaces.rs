//! The interfaces that have the program, made to be those that are wanted, whenever asked.
//!
//! Each has a slot of the counters for as long as anybody may ask: an interface that vanishes and
//! comes back under its name counts on. Nothing is let go that is still wanted and still there.

use std::{fs, path::Path, thread, time::Duration};

use limiter_common::maps;
use log::LevelFilter;
use nix::errno::Errno;

use super::{
    AttachMode, InterfaceState, KernelError,
    attach::{Attached, Place, attach, is_wanted, link_path, refuse_foreign},
    foreign::ProgramNames,
    load::{KernelLogger, LoadedProgram},
    netlink,
    pins::Pins,
};
use crate::{clock, policy::kernel::Attach};

/// How long an attachment that failed for no reason that can be seen from outside is not tried
/// again: each attempt verifies the program.
const RETRY_NS: u64 = 60_000_000_000;

/// How long a link that is let go may still be on its interface, and how often is looked.
const RELEASE_LOOKS: u32 = 200;
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// One interface with the program on it.
#[derive(Debug)]
struct Attachment {
    slot: u32,
    program: u32,
    state: InterfaceState,
}

/// What became of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It has the program now.
    Attached(InterfaceState),
    /// It has it no more: name, and why.
    Detached(String, &'static str),
}

/// An interface that is wanted and has no program, and why not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unattached {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// One sentence.
    pub why: String,
}

/// An attempt that failed, kept until it is due again.
#[derive(Debug)]
struct Failure {
    unattached: Unattached,
    wanted: Attach,
    due_ns: u64,
}

/// All of them.
pub(super) struct Interfaces {
    attached: Vec<Attachment>,
    failures: Vec<Failure>,
    /// Whose counters a slot holds.
    slots: [Option<String>; maps::MAX_INTERFACES as usize],
    /// A program that is loaded and not attached yet, with its slot.
    reserve: Option<(u32, LoadedProgram)>,
    loggers: Vec<(u32, KernelLogger)>,
    names: ProgramNames,
    diagnostics: LevelFilter,
}

/// A slot for an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Slot {
    number: u32,
    /// Its counters are those of somebody else.
    is_fresh: bool,
}

impl Interfaces {
    /// None yet, with the program that made the maps.
    pub(super) fn new(reserve: LoadedProgram, names: ProgramNames, log: LevelFilter) -> Self {
        Self {
            attached: Vec::new(),
            failures: Vec::new(),
            slots: Default::default(),
            reserve: Some((0, reserve)),
            loggers: Vec::new(),
            names,
            diagnostics: log,
        }
    }

    /// Attaches what is wanted and has no program, lets go what is not wanted or gone. `wanted` is
    /// what is there, by name and index; `renew`: also try again what failed lately.
    pub(super) fn follow(
        &mut self,
        wanted: &[(String, u32)],
        how: Attach,
        renew: bool,
        pins: &Pins,
        clear: &mut dyn FnMut(u32) -> Result<(), KernelError>,
    ) -> Vec<Change> {
        let earlier: Vec<u32> = self.attached.iter().map(|one| one.state.index).collect();
        let now_ns = clock::monotonic_ns();
        self.failures.retain(|failure| {
            let Unattached { name, index, .. } = &failure.unattached;
            let is_wanted = wanted.iter().any(|(wanted, at)| wanted == name && at == index);
            is_wanted && failure.wanted == how && !renew && now_ns < failure.due_ns
        });
        let mut changes = Vec::new();
        let mut released = self.let_go(wanted, how, pins, &mut changes);
        // Those of an earlier agent.
        for (link, path) in pins.links() {
            let is_here = wanted.iter().any(|(_, index)| *index == link.index);
            if is_here && !self.has(link.index) && !is_wanted(link.mode, how) {
                release(link.index, &path);
                released.push((link.index, link.mode));
            }
        }
        for (name, index) in wanted {
            if self.has(*index) || self.failed(*index) {
                continue;
            }
            let Err(Refused { error, is_cheap }) = self.add(name, *index, how, pins, clear) else {
                continue;
            };
            let due_ns = if is_cheap { 0 } else { now_ns.saturating_add(RETRY_NS) };
            let unattached =
                Unattached { name: name.clone(), index: *index, why: error.to_string() };
            self.failures.push(Failure { unattached, wanted: how, due_ns });
            // As it was is better than not at all.
            if let Some((_, mode)) = released.iter().find(|(of, _)| of == index)
                && self.add(name, *index, mode.only(), pins, clear).is_ok()
                && let Some(one) = self.attached.last_mut()
            {
                one.state.taken_over = true;
            }
        }
        let place = |index| wanted.iter().position(|(_, at)| *at == index);
        self.attached.sort_by_key(|one| place(one.state.index));
        let fresh = self.attached.iter().filter(|one| !earlier.contains(&one.state.index));
        changes.extend(fresh.map(|one| Change::Attached(one.state.clone())));
        changes
    }

    /// Lets go what left, what is gone, what lost its program, what runs in another mode than is
    /// wanted; renames what was renamed. What is let go for its mode, by index.
    fn let_go(
        &mut self,
        wanted: &[(String, u32)],
        how: Attach,
        pins: &Pins,
        changes: &mut Vec<Change>,
    ) -> Vec<(u32, AttachMode)> {
        let mut kept = Vec::new();
        let mut released = Vec::new();
        for mut attachment in std::mem::take(&mut self.attached) {
            let InterfaceState { name, index, mode, .. } = &attachment.state;
            let (index, mode) = (*index, *mode);
            let here = wanted.iter().find(|(_, at)| *at == index).map(|(name, _)| name);
            let why = match (here, netlink::xdp_on(index)) {
                (None, Err(Errno::ENODEV)) => Some("it is gone"),
                (None, _) => Some("it is not wanted any more"),
                (Some(_), Ok(found))
                    if found.is_none_or(|found| found.program != attachment.program) =>
                {
                    Some("its program was taken off")
                }
                (Some(_), _) if !is_wanted(mode, how) && !self.failed(index) => {
                    released.push((index, mode));
                    Some("its mode changes")
                }
                (Some(_), _) => None,
            };
            let Some(why) = why else {
                if let Some(here) = here.filter(|here| *here != name) {
                    self.slots[attachment.slot as usize] = Some(here.clone());
                    attachment.state.name.clone_from(here);
                }
                kept.push(attachment);
                continue;
            };
            let path = link_path(pins, attachment.slot, mode, index);
            if here.is_some() {
                release(index, &path);
            } else {
                drop(fs::remove_file(&path));
            }
            self.loggers.retain(|(slot, _)| *slot != attachment.slot);
            changes.push(Change::Detached(name.clone(), why));
        }
        self.attached = kept;
        released
    }

    fn add(
        &mut self,
        name: &str,
        index: u32,
        how: Attach,
        pins: &Pins,
        clear: &mut dyn FnMut(u32) -> Result<(), KernelError>,
    ) -> Result<(), Refused> {
        let links = pins.links();
        let linked: Vec<(u32, u32)> =
            links.iter().map(|(link, _)| (link.index, link.slot)).collect();
        let in_use: Vec<u32> = self.attached.iter().map(|one| one.slot).collect();
        let Some(slot) = choose_slot(&self.slots, &in_use, &linked, name, index) else {
            let most = maps::MAX_INTERFACES;
            let text = format!("interface {name} is one too many: at most {most} are possible");
            return Err(Refused { error: KernelError::Policy(text), is_cheap: true });
        };
        let place = Place { name, index, slot: slot.number };
        if !linked.iter().any(|(of, _)| *of == index) {
            refuse_foreign(place, &self.names)
                .map_err(|error| Refused { error, is_cheap: true })?;
        }
        let dear = |error| Refused { error, is_cheap: false };
        if slot.is_fresh {
            clear(slot.number).map_err(dear)?;
        }
        let mut loaded = match self.reserve.take() {
            Some((number, loaded)) if number == slot.number => loaded,
            _ => LoadedProgram::load(pins, slot.number, self.diagnostics).map_err(dear)?,
        };
        let attached = loaded
            .program()
            .and_then(|program| attach(program, place, how, pins, &self.names))
            .map_err(dear)?;
        if self.diagnostics != LevelFilter::Off {
            self.loggers.push((slot.number, loaded.logger().map_err(dear)?));
        }
        self.slots[slot.number as usize] = Some(name.to_owned());
        let Attached { mode, taken_over, program, note } = attached;
        let state = InterfaceState { name: name.to_owned(), index, mode, taken_over, note };
        self.attached.push(Attachment { slot: slot.number, program, state });
        Ok(())
    }

    fn has(&self, index: u32) -> bool {
        self.attached.iter().any(|one| one.state.index == index)
    }

    fn failed(&self, index: u32) -> bool {
        self.failures.iter().any(|one| one.unattached.index == index)
    }

    /// Removes every link that is none of these: what an earlier agent attached and nobody wants.
    pub(super) fn remove_other_links(&self, pins: &Pins) {
        let current: Vec<_> = self
            .attached
            .iter()
            .map(|one| link_path(pins, one.slot, one.state.mode, one.state.index))
            .collect();
        for (_, path) in pins.links() {
            if !current.contains(&path) {
                drop(fs::remove_file(path));
            }
        }
    }

    /// Takes off again what was not there before this start.
    pub(super) fn undo(self, pins: &Pins) {
        for one in self.attached.iter().filter(|one| !one.state.taken_over) {
            let path = link_path(pins, one.slot, one.state.mode, one.state.index);
            drop(fs::remove_file(path));
        }
    }

    /// What is wanted and has no program.
    pub(super) fn unattached(&self) -> Vec<Unattached> {
        self.failures.iter().map(|failure| failure.unattached.clone()).collect()
    }

    /// Those with the program.
    pub(super) fn states(&self) -> Vec<InterfaceState> {
        self.attached.iter().map(|one| one.state.clone()).collect()
    }

    /// Slots with counters that are somebody's.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..maps::MAX_INTERFACES).filter(|slot| self.slots[*slot as usize].is_some())
    }

    /// Whose counters these are.
    pub(super) fn name_of(&self, slot: u32) -> String {
        let name = self.slots.get(slot as usize).and_then(Clone::clone);
        name.unwrap_or_else(|| slot.to_string())
    }

    pub(super) fn flush_loggers(&mut self) {
        for (_, logger) in &mut self.loggers {
            logger.flush();
        }
    }
}

/// Why an interface has no program, and whether finding out again costs little.
struct Refused {
    error: KernelError,
    is_cheap: bool,
}

/// The slot that an interface had, that its link names, or one that nobody needs. `links`: index
/// and slot of each.
fn choose_slot(
    owners: &[Option<String>],
    in_use: &[u32],
    links: &[(u32, u32)],
    name: &str,
    index: u32,
) -> Option<Slot> {
    let kept = |number| Slot { number, is_fresh: false };
    let free = || (0..maps::MAX_INTERFACES).filter(|slot| !in_use.contains(slot));
    let owner = |slot: u32| owners.get(slot as usize).and_then(Option::as_deref);
    if let Some(number) = free().find(|slot| owner(*slot) == Some(name)) {
        return Some(kept(number));
    }
    let linked = links.iter().find(|(of, _)| *of == index).map(|(_, slot)| *slot);
    if let Some(number) = free().find(|slot| linked == Some(*slot) && owner(*slot).is_none()) {
        return Some(kept(number));
    }
    // A slot that some link names may still be counted in.
    let is_linked = |slot: u32| links.iter().any(|(_, of)| *of == slot);
    let number = free()
        .find(|slot| owner(*slot).is_none() && !is_linked(*slot))
        .or_else(|| free().find(|slot| owner(*slot).is_none()))
        .or_else(|| free().next())?;
    Some(Slot { number, is_fresh: true })
}

/// Takes a link off its interface. It goes some time after its last pin: the kernel waits for
/// whoever still looks at it.
fn release(index: u32, path: &Path) {
    let before = netlink::xdp_on(index);
    drop(fs::remove_file(path));
    for _ in 0..RELEASE_LOOKS {
        if !matches!(before, Ok(Some(_))) || netlink::xdp_on(index) != before {
            return;
        }
        thread::sleep(RELEASE_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(slots: &[(u32, &str)]) -> Vec<Option<String>> {
        let mut all = vec![None; maps::MAX_INTERFACES as usize];
        for (slot, name) in slots {
            all[*slot as usize] = Some((*name).to_owned());
        }
        all
    }

    #[test]
    fn an_interface_keeps_its_counters_and_gets_nobody_elses() {
        let kept = |number| Some(Slot { number, is_fresh: false });
        let fresh = |number| Some(Slot { number, is_fresh: true });
        let owners = named(&[(0, "eth0"), (2, "gone0")]);
        assert_eq!(choose_slot(&owners, &[0], &[], "gone0", 9), kept(2), "it came back");
        assert_eq!(choose_slot(&owners, &[0], &[(9, 5)], "new0", 9), kept(5), "its link says so");
        assert_eq!(choose_slot(&owners, &[0], &[(9, 2)], "new0", 9), fresh(1), "not its counters");
        assert_eq!(choose_slot(&owners, &[0], &[(7, 1)], "new0", 9), fresh(3), "another counts");
        let full = vec![Some("x".to_owned()); maps::MAX_INTERFACES as usize];
        assert_eq!(choose_slot(&full, &[0, 1], &[], "new0", 9), fresh(2), "nobody has it now");
        let all: Vec<u32> = (0..maps::MAX_INTERFACES).collect();
        assert_eq!(choose_slot(&full, &all, &[], "new0", 9), None);
    }
}
