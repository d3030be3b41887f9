//! The kernel half as the agent holds it: loads the program, attaches it, changes its maps.
//!
//! The only importer of aya. Links and maps are pinned, so that packets stay filtered when the
//! agent dies; what a restarted agent finds is checked before it is believed. Nothing here takes
//! XDP off an interface except [`Kernel::detach`] and an interface that left the policy.

mod attach;
mod btf;
mod connections;
mod drops;
mod error;
mod explain;
mod filter;
pub mod image;
mod lists;
mod load;
mod mapped;
mod pins;
mod plain;
pub mod plan;
mod ring;
mod sock_diag;
mod sys;
mod tables;

use std::{fmt, net::IpAddr, path::Path};

use aya::maps::lpm_trie::Key;
use limiter_common::{
    address::Address,
    ban::Ban,
    headers::Flaw,
    machine::{Machine as _, Native},
    maps::{self, control},
    report::Counter,
    source::{SourceSlot, find_in, set_indices},
    verdict::{Action, Reason, Verdict},
};

pub use self::{
    attach::AttachMode,
    connections::ConnectionState,
    drops::Drops,
    error::KernelError,
    explain::{Explanation, Probe},
};
use self::{
    attach::Attachment,
    connections::Connections,
    image::{HostFacts, KernelImage, Running},
    plain::Plain,
    plan::{InForce, Step},
    tables::Maps,
};
use crate::policy::KernelPolicy;

/// The loaded and attached kernel half.
pub struct Kernel {
    maps: Maps,
    attachments: Vec<Attachment>,
    loggers: Vec<load::KernelLogger>,
    policy: KernelPolicy,
    host: HostFacts,
    image: KernelImage,
    in_force: InForce,
    running: Running,
    filter: filter::BanFilter,
    /// Or why connections are not counted.
    connections: Result<Connections, String>,
    bans: usize,
    pins: pins::Pins,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Kernel")
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}

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
}

/// Packets and bytes of one verdict on one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VerdictCount {
    /// Slot of the interface.
    pub interface: u32,
    /// What happened, and why.
    pub verdict: Verdict,
    /// How often.
    pub counter: Counter,
}

/// One tracked source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SourceRecord {
    /// Address, the first of its prefix.
    pub address: IpAddr,
    /// Packets, bytes, new connections, drops.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// TCP SYN.
    pub connections: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Last packet, `CLOCK_MONOTONIC` ns.
    pub seen_ns: u64,
}

impl Kernel {
    /// Loads, puts the policy in force, then attaches: no packet meets an empty policy. Takes over
    /// what an earlier agent pinned.
    pub fn start(
        policy: &KernelPolicy,
        interfaces: &[(String, u32)],
        pins: &Path,
        host: &HostFacts,
        diagnostics: log::LevelFilter,
    ) -> Result<Self, KernelError> {
        let pins = pins::Pins::open(pins, policy)?;
        let mut programs = load::Programs::load(&pins, interfaces, diagnostics)?;
        let slots = programs.interfaces.iter().map(|one| (one.name.clone(), one.slot)).collect();
        let image = KernelImage::new(policy, &HostFacts { slots, ..host.clone() })?;
        let maps = Maps::open(&pins)?;
        let earlier = maps.in_force()?;
        let running = load::running(&maps, policy, &programs)?;
        let mut kernel = Self {
            filter: filter::BanFilter::open(&pins)?,
            connections: Err(String::new()),
            bans: 0,
            in_force: earlier,
            running,
            image: image.clone(),
            policy: policy.clone(),
            host: host.clone(),
            attachments: Vec::new(),
            loggers: Vec::new(),
            maps,
            pins,
        };
        kernel.pins.copy_bans_of_other_generations(&mut kernel.maps.bans)?;
        kernel.bans = kernel.maps.bans.keys().count();
        let keys: Vec<u64> = kernel.maps.bans.keys().filter_map(Result::ok).collect();
        kernel.filter.rebuild(&keys)?;
        kernel.carry_out(&plan::plan(None, &image, earlier), &image)?;
        kernel.connections = Connections::start(&kernel.pins).map_err(|error| error.to_string());
        if diagnostics != log::LevelFilter::Off {
            kernel.loggers = programs
                .interfaces
                .iter_mut()
                .map(load::LoadedProgram::logger)
                .collect::<Result<_, _>>()?;
        }
        kernel.attachments = attach::attach(programs, &kernel.pins, policy.attach)?;
        kernel.pins.remove_other_generations();
        Ok(kernel)
    }

    /// Puts a new policy in force; what needs a restart, a line each.
    pub fn apply(
        &mut self,
        policy: &KernelPolicy,
        host: &HostFacts,
    ) -> Result<Vec<String>, KernelError> {
        let needs_restart = plan::needs_restart(&self.policy, policy);
        let policy = plan::without_restart(&self.policy, policy);
        let slots = self.attachments.iter().map(|one| (one.state.name.clone(), one.slot)).collect();
        let image = KernelImage::new(&policy, &HostFacts { slots, ..host.clone() })?;
        let steps = plan::plan(Some(&self.image), &image, self.in_force);
        self.running.generation += u64::from(!steps.is_empty());
        self.carry_out(&steps, &image)?;
        self.image = image;
        self.policy = policy;
        self.host = host.clone();
        Ok(needs_restart)
    }

    /// Puts the policy in force anew if the host is not what it was.
    pub fn follow(&mut self, host: &HostFacts) -> Result<(), KernelError> {
        if self.host == *host {
            return Ok(());
        }
        let policy = self.policy.clone();
        self.apply(&policy, host).map(drop)
    }

    fn carry_out(&mut self, steps: &[Step], image: &KernelImage) -> Result<(), KernelError> {
        for step in steps {
            match *step {
                Step::FillLists { second } => self.maps.fill_lists(second, image)?,
                Step::WriteSettings { index, lists_second } => {
                    let settings = image.settings(self.running, lists_second);
                    self.maps.write_settings(index, &settings, image)?;
                    self.in_force.lists_second = lists_second;
                }
                Step::Activate { index } => {
                    self.maps.set_word(control::ACTIVE, u64::from(index));
                    self.in_force.settings = index;
                }
            }
        }
        Ok(())
    }

    /// Bans a source until `expires_ns` (`CLOCK_MONOTONIC`). IPv6 is banned by /64. The expiry is
    /// the kernel's doing.
    pub fn ban(&mut self, address: IpAddr, expires_ns: u64) -> Result<(), KernelError> {
        let key = Address::from(address).ban_key();
        let known = self.maps.bans.get(&key, 0).ok();
        let packets = known.map_or(0, |Plain(ban)| ban.packets);
        self.maps.bans.insert(key, Plain(Ban { expires_ns, packets }), 0).map_err(|error| {
            if self.bans >= self.policy.max_bans as usize {
                return KernelError::Full(format!(
                    "the ban table is full ({} bans): raise kernel.max_bans",
                    self.policy.max_bans,
                ));
            }
            KernelError::system("inserting a ban", &error)
        })?;
        if known.is_none() {
            self.bans += 1;
            // After the insertion: a packet in between passes once.
            self.filter.add(key)?;
        }
        Ok(())
    }

    /// Lifts a ban; whether there was one.
    pub fn unban(&mut self, address: IpAddr) -> Result<bool, KernelError> {
        let key = Address::from(address).ban_key();
        let removed = self.maps.bans.remove(&key).is_ok();
        if removed {
            self.bans = self.bans.saturating_sub(1);
            self.filter.remove(key)?;
        }
        Ok(removed)
    }

    /// Every entry of the ban table, expired ones too: address (IPv6: first of its /64) and ban.
    pub fn bans(&self) -> Vec<(IpAddr, Ban)> {
        self.maps
            .bans
            .iter()
            .filter_map(Result::ok)
            .map(|(key, Plain(ban))| (Address::from_key(key).into(), ban))
            .collect()
    }

    /// The ban of this address, expired or not.
    pub fn ban_of(&self, address: IpAddr) -> Option<Ban> {
        let key = Address::from(address).ban_key();
        self.maps.bans.get(&key, 0).ok().map(|Plain(ban)| ban)
    }

    /// The ban of the longest prefix that covers this address, expired or not.
    pub fn prefix_ban_of(&self, address: IpAddr) -> Option<Ban> {
        let key = Key::new(128, Address::from(address).to_bytes());
        self.maps.ban_prefixes.get(&key, 0).ok().map(|Plain(ban)| ban)
    }

    /// How many entries the ban table has.
    pub fn ban_count(&self) -> usize {
        self.bans
    }

    /// Name of the interface that has this slot.
    pub fn interface_name(&self, slot: u32) -> String {
        let found = self.attachments.iter().find(|attachment| attachment.slot == slot);
        found.map_or_else(|| slot.to_string(), |attachment| attachment.state.name.clone())
    }

    /// Every interface with XDP.
    pub fn interfaces(&self) -> Vec<InterfaceState> {
        self.attachments.iter().map(|attachment| attachment.state.clone()).collect()
    }

    /// Counters that are not zero, and packets of lost drop records, by interface and verdict.
    pub fn counts(&self) -> (Vec<VerdictCount>, Vec<VerdictCount>) {
        let mut counts = Vec::new();
        let mut lost = Vec::new();
        for attachment in &self.attachments {
            let interface = attachment.slot;
            for action in Action::ALL {
                for &reason in Reason::ALL {
                    let verdict = Verdict { action, reason };
                    let number = u32::try_from(verdict.counter()).unwrap_or(0);
                    for (list, index) in [
                        (&mut counts, maps::counter_index(interface, verdict)),
                        (&mut lost, maps::lost_index(interface, number)),
                    ] {
                        let counter = self.maps.counter(index);
                        if counter.packets > 0 {
                            list.push(VerdictCount { interface, verdict, counter });
                        }
                    }
                }
            }
        }
        (counts, lost)
    }

    /// Every tracked source: reads the whole table, 1 KiB for each set, for people who ask for it.
    pub fn sources(&self) -> Vec<SourceRecord> {
        (0..self.maps.set_count()).flat_map(|set| self.records_of_set(set)).collect()
    }

    /// The record of this address's source, if it is tracked.
    pub fn source(&self, address: IpAddr) -> Option<SourceRecord> {
        let settings = self.maps.active_settings().ok()?;
        let key = Address::from(address).source_key(settings.masks);
        let sets = set_indices(key, settings.hash_seed, settings.set_mask);
        let keys = sets.map(|set| (set, self.maps.keys(set)));
        let find = |set| keys.iter().find(|(index, _)| *index == set).map(|(_, keys)| keys);
        let place = find_in::<Native>(find, sets, key)?;
        Some(record(self.maps.slots(place.set).slot(place.way)))
    }

    fn records_of_set(&self, set: u32) -> Vec<SourceRecord> {
        let keys = self.maps.keys(set);
        if keys.is_empty() {
            return Vec::new();
        }
        let slots = self.maps.slots(set);
        // Slots of sources at a service are not sources of their own.
        slots.occupied(&keys).filter(|slot| Native::read(&slot.service) == 0).map(record).collect()
    }

    /// How many slots of the table are in use, for sources and for sources at services, idle or
    /// not: reads the keys, 64 bytes for each set.
    pub fn source_count(&self) -> usize {
        (0..self.maps.set_count()).map(|set| self.maps.keys(set).count()).sum()
    }

    /// Packets that were malformed, by what was wrong with them.
    pub fn flaws(&self) -> Vec<(Flaw, u64)> {
        let flaws = Flaw::ALL.iter().filter(|flaw| **flaw != Flaw::None);
        flaws.map(|flaw| (*flaw, self.maps.flaw(*flaw))).collect()
    }

    /// What the lists say about an address on the interface with this slot.
    pub fn list(&self, address: IpAddr, slot: u32) -> limiter_common::lists::ListVerdict {
        self.image.list(address, slot)
    }

    /// Capacity of the source table, in slots, and of the ban table.
    pub fn capacities(&self) -> (u64, u64) {
        let slots = u64::from(self.maps.set_count()) * limiter_common::source::WAYS as u64;
        (slots, u64::from(self.policy.max_bans))
    }

    /// Prints the program's diagnostics, where they are on.
    pub fn flush_diagnostics(&mut self) {
        for logger in &mut self.loggers {
            logger.flush();
        }
    }

    /// The drops as they come: ring buffer and slots. Can be taken once.
    pub fn drops(&self) -> Result<Drops, KernelError> {
        Drops::open(&self.pins)
    }

    /// Takes XDP off every interface and removes every pin; the names of the interfaces.
    pub fn detach(self) -> Vec<String> {
        let names = self.attachments.iter().map(|one| one.state.name.clone()).collect();
        drop(self.attachments);
        self.pins.remove_all();
        names
    }
}

fn record(slot: &SourceSlot) -> SourceRecord {
    SourceRecord {
        address: Address::from_key(Native::read(&slot.source_key)).into(),
        packets: Native::read(&slot.packets),
        bytes: Native::read(&slot.bytes),
        connections: Native::read(&slot.connections),
        dropped: Native::read(&slot.dropped),
        seen_ns: Native::read(&slot.seen_ns),
    }
}

/// Makes sure that there is a directory on a BPF file system for the pins: needs a capability that
/// the agent then gives up.
pub fn prepare_pins(directory: &Path) -> Result<(), KernelError> {
    let missing = load::missing_capabilities();
    if !missing.is_empty() {
        return Err(KernelError::Host(format!(
            "the kernel half needs capabilities that this process lacks: {} (run it as root, or \
             grant them, e.g. AmbientCapabilities= of its systemd unit)",
            missing.join(", "),
        )));
    }
    pins::ensure_bpffs(directory)?;
    pins::make_directory(directory)
}

/// Takes XDP off without a running agent: removes every pin under this directory. How many links.
pub fn detach_pins(directory: &Path) -> Result<usize, KernelError> {
    pins::Pins::remove_everything(directory)
}
