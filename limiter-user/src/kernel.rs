//! The kernel half as the agent holds it: loads the program, attaches it, changes its maps.
//!
//! The only importer of aya. Links and maps are pinned, so that packets stay filtered when the
//! agent dies; what a restarted agent finds is checked before it is believed. Nothing here takes
//! XDP off an interface except [`Kernel::detach`] and an interface that left the policy.

mod attach;
mod bans;
mod btf;
mod carve;
mod connections;
mod cookies;
mod drops;
mod error;
mod explain;
mod filling;
mod filter;
mod foreign;
pub mod image;
mod interfaces;
mod list_maps;
mod lists;
mod load;
mod mapped;
mod netdev;
mod netlink;
mod pins;
mod plain;
pub mod plan;
pub mod probe;
mod ring;
mod sock_diag;
mod sys;
mod tables;
mod telling;

use std::{fmt, net::IpAddr, path::Path};

use limiter_common::{
    address::Address,
    headers::Flaw,
    machine::{Machine as _, Native},
    maps::{self, control},
    report::Counter,
    source::{Home, SourceSlot, WAYS, find_in},
    verdict::{Action, Reason, Verdict},
};

pub use self::{
    attach::AttachMode,
    bans::ban_prefix,
    connections::ConnectionState,
    drops::{Dropped, Drops},
    error::KernelError,
    explain::{Explanation, Probe},
    filling::{Filled, Filling},
    foreign::ProgramNames,
    interfaces::{Change, InterfaceState, Unattached},
    netdev::{XdpFeatures, xdp_features},
    netlink::{LinkFacts, LinkMonitor, XdpOn, link_facts},
    telling::Ledger,
};
use self::{
    connections::Connections,
    filling::Prepared,
    image::{HostFacts, KernelImage, Listed, Running},
    interfaces::Interfaces,
    lists::Lists,
    plan::{InForce, Step},
    tables::Maps,
};
use crate::policy::KernelPolicy;

/// The loaded and attached kernel half.
pub struct Kernel {
    maps: Maps,
    interfaces: Interfaces,
    policy: KernelPolicy,
    host: HostFacts,
    image: KernelImage,
    /// What the lists in force were made from.
    merged: (Listed, Lists),
    /// Lists that lie in the half that is not in force, until they are.
    prepared: Option<Prepared>,
    in_force: InForce,
    running: Running,
    bans: bans::BanTables,
    /// Or why connections are not counted.
    connections: Result<Connections, String>,
    pins: pins::Pins,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Kernel")
            .field("interfaces", &self.interfaces.states())
            .finish_non_exhaustive()
    }
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
    /// what an earlier agent pinned. Where the policy requires every interface, one that cannot be
    /// attached fails the start, which then leaves things as they were.
    pub fn start(
        policy: &KernelPolicy,
        wanted: &[(String, u32)],
        pins: &Path,
        host: &HostFacts,
        diagnostics: log::LevelFilter,
        names: ProgramNames,
    ) -> Result<Self, KernelError> {
        let pins = pins::Pins::open(pins, policy)?;
        let loaded = load::LoadedProgram::load(&pins, 0, false, diagnostics)?;
        let mut interfaces = Interfaces::new(loaded, names, diagnostics);
        let fresh = interfaces.assign(wanted, &pins);
        let slots = interfaces.slots_by_name();
        let facts = HostFacts { slots, ..host.clone() };
        let listed = Listed::of(policy, &facts);
        let lists = listed.merge()?;
        let image = KernelImage::with_lists(policy, &facts, lists.clone())?;
        let maps = Maps::open(&pins)?;
        let earlier = maps.in_force()?;
        let running = load::running(&maps, policy, interfaces.reserve()?)?;
        let mut kernel = Self {
            bans: bans::BanTables::open(&pins, policy, &maps)?,
            connections: Err(String::new()),
            in_force: earlier,
            running,
            image: image.clone(),
            merged: (listed, lists),
            prepared: None,
            policy: policy.clone(),
            host: host.clone(),
            interfaces,
            maps,
            pins,
        };
        kernel.carry_out(&plan::plan(None, &image, earlier), &image)?;
        kernel.connections = Connections::start(&kernel.pins).map_err(|error| error.to_string());
        kernel.clear_counters(&fresh)?;
        kernel.follow_interfaces(wanted, true);
        if policy.required && !kernel.unattached().is_empty() {
            let why: Vec<String> = kernel.unattached().into_iter().map(|one| one.why).collect();
            kernel.interfaces.undo(&kernel.pins);
            return Err(KernelError::Host(why.join("; ")));
        }
        kernel.interfaces.remove_other_links(&kernel.pins);
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
        let slots = self.interfaces.slots_by_name();
        let facts = HostFacts { slots, ..host.clone() };
        let listed = Listed::of(&policy, &facts);
        let lists = self.merged(&listed)?;
        let image = KernelImage::with_lists(&policy, &facts, lists.clone())?;
        let steps = plan::plan(Some(&self.image), &image, self.in_force);
        self.running.generation += u64::from(!steps.is_empty());
        self.carry_out(&steps, &image)?;
        self.image = image;
        self.merged = (listed, lists);
        self.prepared = None;
        self.policy = policy;
        self.host = host.clone();
        Ok(needs_restart)
    }

    /// Puts the policy in force anew if the host is not what it was.
    pub fn follow(&mut self, host: &HostFacts) -> Result<(), KernelError> {
        // While lists are on their way it waits for them.
        if self.host == *host || self.is_filling() {
            return Ok(());
        }
        let policy = self.policy.clone();
        self.apply(&policy, host).map(drop)
    }

    fn carry_out(&mut self, steps: &[Step], image: &KernelImage) -> Result<(), KernelError> {
        for step in steps {
            match *step {
                Step::FillLists { second } => {
                    let prepared = self.prepared.as_ref();
                    let prepared = prepared.filter(|prepared| prepared.lists == image.lists);
                    let filters = prepared.map(|prepared| &prepared.filters);
                    self.maps.fill_lists(second, image, filters)?;
                }
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

    /// Counters that are not zero, and packets of lost drop records, by interface and verdict.
    pub fn counts(&self) -> (Vec<VerdictCount>, Vec<VerdictCount>) {
        let mut counts = Vec::new();
        let mut lost = Vec::new();
        for interface in self.interfaces.slots() {
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

    /// The record of this address's source, if it is tracked.
    pub fn source(&self, address: IpAddr) -> Option<SourceRecord> {
        let settings = self.maps.active_settings().ok()?;
        let key = Address::from(address).source_key(settings.masks);
        let home = Home::of(key, settings.hash_seed, settings.set_mask);
        let keys = home.sets.map(|set| (set, self.maps.keys(set)));
        let find = |set| keys.iter().find(|(index, _)| *index == set).map(|(_, keys)| keys);
        let place = find_in::<Native>(find, home, key)?;
        self.maps.slots(place.set).slot(place.way).map(record)
    }

    /// How many sets the table of sources has.
    pub fn source_sets(&self) -> u32 {
        self.maps.set_count()
    }

    /// The sources of one set (below [`Self::source_sets`]): for whoever goes through the table a
    /// part at a time.
    pub fn records_of_set(&self, set: u32) -> Vec<SourceRecord> {
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

    /// Single addresses and networks on the lists, each with how many there can be.
    pub fn list_fill(&self) -> [(usize, usize); 2] {
        self.image.lists.counts().map(|count| (count, list_maps::CAPACITY))
    }

    /// What the lists say about an address on the interface with this slot.
    pub fn list(&self, address: IpAddr, slot: u32) -> limiter_common::lists::ListVerdict {
        self.image.list(address, slot)
    }

    /// Capacity of the source table, in slots.
    pub fn source_capacity(&self) -> u64 {
        u64::from(self.maps.set_count()) * WAYS as u64
    }

    /// Prints the program's diagnostics, where they are on.
    pub fn flush_diagnostics(&mut self) {
        self.interfaces.flush_loggers();
    }

    /// The drops as they come: ring buffer and slots. Can be taken once. `ledger`: what an earlier
    /// agent left.
    pub fn drops(&self, ledger: Option<&Ledger>) -> Result<Drops, KernelError> {
        Drops::open(&self.pins, ledger, &self.counts().1)
    }

    /// Takes XDP off every interface and removes every pin; the names of the interfaces.
    pub fn detach(self) -> Vec<String> {
        let names = self.interfaces.states().into_iter().map(|state| state.name).collect();
        drop(self.interfaces);
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

/// Makes sure that there is a directory on a BPF file system for the pins, and notes whose XDP
/// programs there are: both need a capability that the agent then gives up.
pub fn prepare(directory: &Path) -> Result<ProgramNames, KernelError> {
    let missing = load::missing_capabilities();
    if !missing.is_empty() {
        return Err(KernelError::Host(format!(
            "the kernel half needs capabilities that this process lacks: {} (run it as root, or \
             grant them, e.g. AmbientCapabilities= of its systemd unit)",
            missing.join(", "),
        )));
    }
    pins::ensure_bpffs(directory)?;
    pins::make_directory(directory)?;
    Ok(ProgramNames::look())
}

/// Takes XDP off without a running agent: removes every pin under this directory. How many links.
pub fn detach_pins(directory: &Path) -> Result<usize, KernelError> {
    pins::Pins::remove_everything(directory)
}
