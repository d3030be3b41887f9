//! The interfaces that have the program, made to be those that are wanted, whenever asked.
//!
//! Each has a slot of the counters for as long as anybody may ask: an interface that vanishes and
//! comes back under its name counts on. Nothing is let go that is still wanted and still there.

mod follow;
mod slots;

use std::{fs, path::Path, thread, time::Duration};

use limiter_common::maps;
use log::LevelFilter;
use nix::errno::Errno;

use self::slots::choose_slot;
use super::{
    AttachMode, KernelError,
    attach::{Attached, Place, attach, is_wanted, link_path, refuse_foreign},
    foreign::ProgramNames,
    load::{KernelLogger, LoadedProgram, is_loopback},
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

/// One interface with XDP on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceState {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// How XDP runs on it.
    pub mode: AttachMode,
    /// Whether an earlier agent attached it.
    pub taken_over: bool,
    /// Why the mode is generic although native was wanted.
    pub note: Option<String>,
}

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
    slots: Slots,
    /// The program that made the maps, while it is not attached: that of slot 0.
    reserve: Option<LoadedProgram>,
    loggers: Vec<(u32, KernelLogger)>,
    names: ProgramNames,
    diagnostics: LevelFilter,
}

/// Names by slot.
type Slots = [Option<String>; maps::MAX_INTERFACES as usize];

/// One pass over the interfaces, under way.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// What happened.
    pub(super) changes: Vec<Change>,
    /// Indices of those that stayed.
    kept: Vec<u32>,
    /// Those let go to be attached anew, with the mode they had.
    released: Vec<(u32, AttachMode)>,
}

impl Interfaces {
    /// None yet, with the program that made the maps.
    pub(super) fn new(reserve: LoadedProgram, names: ProgramNames, log: LevelFilter) -> Self {
        Self {
            attached: Vec::new(),
            failures: Vec::new(),
            slots: Default::default(),
            reserve: Some(reserve),
            loggers: Vec::new(),
            names,
            diagnostics: log,
        }
    }

    /// Lets go what left, what is gone, what lost its program, what runs in another mode than is
    /// wanted; renames what was renamed. `wanted` is what is there, by name and index; `renew`:
    /// also forget what failed lately.
    pub(super) fn let_go(
        &mut self,
        wanted: &[(String, u32)],
        how: Attach,
        renew: bool,
        pins: &Pins,
    ) -> Round {
        let now_ns = clock::monotonic_ns();
        self.failures.retain(|failure| {
            let Unattached { name, index, .. } = &failure.unattached;
            let is_wanted = wanted.iter().any(|(wanted, at)| wanted == name && at == index);
            is_wanted && failure.wanted == how && !renew && now_ns < failure.due_ns
        });
        let mut round = Round::default();
        for mut attachment in std::mem::take(&mut self.attached) {
            let here = wanted.iter().find(|(_, at)| *at == attachment.state.index);
            let Some(why) = self.why_not(&attachment, here.is_some(), how) else {
                if let Some((here, _)) = here.filter(|(here, _)| *here != attachment.state.name) {
                    for owner in self.slots.iter_mut().filter(|owner| owner.as_ref() == Some(here))
                    {
                        *owner = None;
                    }
                    self.slots[attachment.slot as usize] = Some(here.clone());
                    attachment.state.name.clone_from(here);
                }
                round.kept.push(attachment.state.index);
                self.attached.push(attachment);
                continue;
            };
            let InterfaceState { index, mode, .. } = attachment.state;
            let path = link_path(pins, attachment.slot, mode, index);
            if here.is_some() {
                release(index, &path);
                round.released.push((index, mode));
            } else {
                drop(fs::remove_file(&path));
            }
            self.loggers.retain(|(slot, _)| *slot != attachment.slot);
            round.changes.push(Change::Detached(attachment.state.name, why));
        }
        // Those of an earlier agent.
        for (link, path) in pins.links() {
            let is_here = wanted.iter().any(|(_, index)| *index == link.index);
            if is_here && !self.has(link.index) && !is_wanted(link.mode, how) {
                release(link.index, &path);
                round.released.push((link.index, link.mode));
            }
        }
        round
    }

    /// Why an interface is let go; `None`: it is not.
    fn why_not(&self, attachment: &Attachment, is_here: bool, how: Attach) -> Option<&'static str> {
        let InterfaceState { index, mode, .. } = attachment.state;
        match netlink::xdp_on(index) {
            Err(Errno::ENODEV) if !is_here => Some("it is gone"),
            _ if !is_here => Some("it is not wanted any more"),
            Ok(found) if found.is_none_or(|found| found.program != attachment.program) => {
                Some("its program was taken off")
            }
            _ if !is_wanted(mode, how) && !self.failed(index) => Some("its mode changes"),
            _ => None,
        }
    }

    /// Gives each wanted interface its slot, before anything is attached: the policy names slots.
    /// Those with counters that are not its.
    pub(super) fn assign(&mut self, wanted: &[(String, u32)], pins: &Pins) -> Vec<u32> {
        let links: Vec<(u32, u32)> =
            pins.links().iter().map(|(link, _)| (link.index, link.slot)).collect();
        let mut in_use: Vec<u32> = self.attached.iter().map(|one| one.slot).collect();
        // Nobody takes what another that is wanted had before.
        let had = |slots: &Slots, name: &str| {
            (0..).zip(slots).find(|(_, owner)| owner.as_deref() == Some(name)).map(|(slot, _)| slot)
        };
        in_use.extend(wanted.iter().filter_map(|(name, _)| had(&self.slots, name)));
        let mut fresh = Vec::new();
        for (name, index) in wanted {
            if self.has(*index) || had(&self.slots, name).is_some() {
                continue;
            }
            if let Some(slot) = choose_slot(&self.slots, &in_use, &links, *index) {
                self.slots[slot.number as usize] = Some(name.clone());
                in_use.push(slot.number);
                if slot.is_fresh {
                    fresh.push(slot.number);
                }
            }
        }
        fresh
    }

    /// Attaches what is wanted and has no program.
    pub(super) fn add_missing(
        &mut self,
        wanted: &[(String, u32)],
        how: Attach,
        round: &mut Round,
        pins: &Pins,
    ) {
        let now_ns = clock::monotonic_ns();
        for (name, index) in wanted {
            if self.has(*index) || self.failed(*index) {
                continue;
            }
            let Err(Refused { error, is_cheap }) = self.add(name, *index, how, pins) else {
                continue;
            };
            let due_ns = if is_cheap { 0 } else { now_ns.saturating_add(RETRY_NS) };
            let unattached =
                Unattached { name: name.clone(), index: *index, why: error.to_string() };
            self.failures.push(Failure { unattached, wanted: how, due_ns });
            // As it was is better than not at all.
            if let Some((_, mode)) = round.released.iter().find(|(of, _)| of == index)
                && self.add(name, *index, mode.only(), pins).is_ok()
                && let Some(one) = self.attached.last_mut()
            {
                one.state.taken_over = true;
            }
        }
        let place = |index| wanted.iter().position(|(_, at)| *at == index);
        self.attached.sort_by_key(|one| place(one.state.index));
        let fresh = self.attached.iter().filter(|one| !round.kept.contains(&one.state.index));
        round.changes.extend(fresh.map(|one| Change::Attached(one.state.clone())));
    }

    fn add(&mut self, name: &str, index: u32, how: Attach, pins: &Pins) -> Result<(), Refused> {
        let owner = |slot: &u32| self.slots[*slot as usize].as_deref() == Some(name);
        let Some(slot) = (0..maps::MAX_INTERFACES).find(owner) else {
            let most = maps::MAX_INTERFACES;
            let text = format!("interface {name} is one too many: at most {most} are possible");
            return Err(Refused { error: KernelError::Policy(text), is_cheap: true });
        };
        let place = Place { name, index, slot };
        if !pins.links().iter().any(|(link, _)| link.index == index) {
            refuse_foreign(place, &self.names)
                .map_err(|error| Refused { error, is_cheap: true })?;
        }
        pins.check_all_there().map_err(|error| Refused { error, is_cheap: true })?;
        let dear = |error| Refused { error, is_cheap: false };
        let is_loopback = is_loopback(name);
        let mut loaded = match self.reserve.take() {
            Some(loaded) if slot == 0 && !is_loopback => loaded,
            _ => LoadedProgram::load(pins, slot, is_loopback, self.diagnostics).map_err(dear)?,
        };
        let attached = loaded
            .program()
            .and_then(|program| attach(program, place, how, pins, &self.names))
            .map_err(dear)?;
        if self.diagnostics != LevelFilter::Off {
            self.loggers.push((slot, loaded.logger().map_err(dear)?));
        }
        let Attached { mode, taken_over, program, note } = attached;
        let state = InterfaceState { name: name.to_owned(), index, mode, taken_over, note };
        self.attached.push(Attachment { slot, program, state });
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

    /// Slots by name.
    pub(super) fn slots_by_name(&self) -> Vec<(String, u32)> {
        let owner = |slot: u32| self.slots[slot as usize].clone();
        (0..maps::MAX_INTERFACES).filter_map(|slot| Some((owner(slot)?, slot))).collect()
    }

    /// The program that made the maps.
    pub(super) fn reserve(&self) -> Result<&LoadedProgram, KernelError> {
        let gone = || KernelError::System("no program is loaded".to_owned());
        self.reserve.as_ref().ok_or_else(gone)
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
