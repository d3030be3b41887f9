//! The packet program by itself: its object loaded without the agent, its maps as the types of
//! `limiter-common`, frames through `BPF_PROG_TEST_RUN`. Nothing is pinned: what is loaded here
//! ends with its value.

mod clock;
mod half;
mod load;
mod others;

use std::{env, fmt, path::PathBuf, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuValues, RingBuf, lpm_trie::Key},
    programs::xdp::{XdpLinkId, XdpMode},
};
use limiter_common::{
    address::Address,
    ban::{Ban, FilterBit, PrefixBit},
    limits::BUCKET_WORDS,
    lists::{LIST_BITMAP_WORDS, LIST_FILTER_WORDS},
    maps::{self, SERVICE_COUNT, control},
    ports::PORT_WORDS,
    report::{Counter, DROP_SLOTS, DROP_WORDS, DropSlot},
    settings::{SERVICE_WORDS, SETTINGS_WORDS, Settings},
    source::{KEY_WORDS, SET_WORDS},
};

pub use self::others::Others;
use self::{
    half::Half,
    load::{load, map, open, run, typed, verified_instructions, xdp},
};
use crate::{lists::Lists, netns::Namespace, policy::Policy, reference::touched, veth::End};

/// Name of the program that decides about packets.
const LIMITER: &str = "limiter";
/// Name of the program that reads the kernel's clocks.
const CLOCK_PROBE: &str = "clock_probe";

/// How large the maps are, and whose time it is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sets of the source table: a power of two.
    pub sets: u32,
    /// Entries of the ban map.
    pub bans: u32,
    /// Entries of each list map.
    pub lists: u32,
    /// Both clocks say [`Settings::fixed_now_ns`].
    pub fixed_clock: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { sets: 64, bans: 1024, lists: 1024, fixed_clock: true }
    }
}

/// The object that `cargo xtask build-ebpf` built: `LIMITER_EBPF_OBJECT`, or what lies in the
/// target directory of the running program.
pub fn object() -> PathBuf {
    if let Some(path) = env::var_os("LIMITER_EBPF_OBJECT") {
        return path.into();
    }
    let this = env::current_exe().expect("a program knows its executable");
    let path = this.ancestors().skip(1).map(|above| above.join("bpf/limiter-ebpf.o"));
    path.filter(|path| path.exists())
        .last()
        .expect("build the object (`cargo xtask build-ebpf`) or set LIMITER_EBPF_OBJECT")
}

/// A loaded program and its maps.
pub struct Program {
    ebpf: Ebpf,
    words: [u64; control::WORDS],
    control: Array<MapData, [u64; control::WORDS]>,
    settings: Array<MapData, [u64; SETTINGS_WORDS]>,
    services: Array<MapData, [u64; SERVICE_WORDS]>,
    ports: Array<MapData, u64>,
    /// What the halves of services and ports hold.
    written: [Policy; 2],
    keys: Array<MapData, [u64; KEY_WORDS]>,
    slots: Array<MapData, [u64; SET_WORDS]>,
    claims: PerCpuArray<MapData, [u64; 2]>,
    totals: Array<MapData, [u64; BUCKET_WORDS]>,
    pending: PerCpuArray<MapData, [u64; BUCKET_WORDS]>,
    bans: HashMap<MapData, u64, [u64; 2]>,
    ban_prefixes: LpmTrie<MapData, [u8; 16], [u64; 2]>,
    ban_filter: Array<MapData, u64>,
    lists: [Half; 2],
    list_filter: Array<MapData, u64>,
    list_bitmap: Array<MapData, u64>,
    connections: HashMap<MapData, u64, u64>,
    open_totals: Array<MapData, u64>,
    counters: PerCpuArray<MapData, [u64; 2]>,
    flaws: PerCpuArray<MapData, u64>,
    drops: PerCpuArray<MapData, [u64; DROP_WORDS]>,
    events: RingBuf<MapData>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Program {
    /// Loads the program of [`object`].
    pub fn load(options: Options) -> Self {
        let mut ebpf = open(&object(), options);
        load(&mut ebpf, LIMITER);
        load(&mut ebpf, CLOCK_PROBE);
        let first = Half::new(&mut ebpf, [maps::EXACT_FIRST, maps::LISTS_FIRST, maps::ADMIT_FIRST]);
        let second =
            Half::new(&mut ebpf, [maps::EXACT_SECOND, maps::LISTS_SECOND, maps::ADMIT_SECOND]);
        let empty = Policy::new(Settings::open(1, 0));
        Self {
            words: [0; control::WORDS],
            control: typed(map(&mut ebpf, maps::CONTROL)),
            settings: typed(map(&mut ebpf, maps::SETTINGS)),
            services: typed(map(&mut ebpf, maps::SERVICES)),
            ports: typed(map(&mut ebpf, maps::PORTS)),
            written: [empty.clone(), empty],
            keys: typed(map(&mut ebpf, maps::KEYS)),
            slots: typed(map(&mut ebpf, maps::SLOTS)),
            claims: typed(map(&mut ebpf, maps::CLAIMS)),
            totals: typed(map(&mut ebpf, maps::TOTALS)),
            pending: typed(map(&mut ebpf, maps::PENDING)),
            bans: typed(map(&mut ebpf, maps::BANS)),
            ban_prefixes: typed(map(&mut ebpf, maps::BAN_PREFIXES)),
            ban_filter: typed(map(&mut ebpf, maps::BAN_FILTER)),
            lists: [first, second],
            list_filter: typed(map(&mut ebpf, maps::LIST_FILTER)),
            list_bitmap: typed(map(&mut ebpf, maps::LIST_BITMAP)),
            connections: typed(map(&mut ebpf, maps::CONNECTIONS)),
            open_totals: typed(map(&mut ebpf, maps::OPEN_TOTALS)),
            counters: typed(map(&mut ebpf, maps::COUNTERS)),
            flaws: typed(map(&mut ebpf, maps::FLAWS)),
            drops: typed(map(&mut ebpf, maps::DROPS)),
            events: typed(map(&mut ebpf, maps::EVENTS)),
            ebpf,
        }
    }

    /// Runs one frame (at least 14 bytes) through it; the XDP action.
    pub fn run(&self, frame: &[u8]) -> u32 {
        run(&self.ebpf, LIMITER, frame, 1).0
    }

    /// Mean time of a run out of `repeat`, the XDP action of the last.
    pub fn time(&self, frame: &[u8], repeat: u32) -> (u32, Duration) {
        run(&self.ebpf, LIMITER, frame, repeat)
    }

    /// Instructions that the verifier walked through.
    pub fn verified_instructions(&self) -> u32 {
        verified_instructions(&self.ebpf, LIMITER)
    }

    /// Attaches it to an interface, natively. It ends with this value.
    pub fn attach(&mut self, end: &End) {
        let ebpf = &mut self.ebpf;
        end.namespace.run(|| {
            let link: Result<XdpLinkId, _> = xdp(ebpf, LIMITER).attach(&end.name, XdpMode::Driver);
            link.unwrap_or_else(|error| panic!("attach to {}: {error}", end.name));
        });
    }

    /// Settings that take effect at once.
    pub fn set_settings(&mut self, settings: &Settings) {
        self.settings.set(self.active(), settings.to_words(), 0).expect("settings are written");
    }

    /// A policy that takes effect by a switch to the other half of its maps, as the agent does it.
    pub fn switch(&mut self, policy: &Policy) {
        self.words[control::ACTIVE] ^= 1;
        self.set_settings(&policy.settings);
        let active = self.active();
        let written = &mut self.written[active as usize];
        for number in 0..SERVICE_COUNT {
            let service = &policy.services[number as usize];
            if *service != written.services[number as usize] {
                let index = active * SERVICE_COUNT + number;
                self.services.set(index, service.to_words(), 0).expect("a service is written");
            }
        }
        for word in 0..PORT_WORDS {
            let ports = policy.ports[word as usize];
            if ports != written.ports[word as usize] {
                self.ports.set(active * PORT_WORDS + word, ports, 0).expect("ports are written");
            }
        }
        *written = policy.clone();
        self.write_control();
    }

    fn active(&self) -> u32 {
        u32::from(self.words[control::ACTIVE] != 0)
    }

    fn write_control(&mut self) {
        self.control.set(0, self.words, 0).expect("the control words are written");
    }

    /// Writes a word of the control map.
    pub fn set_control(&mut self, index: usize, word: u64) {
        self.words[index] = word;
        self.write_control();
    }

    /// Bans the key of an address, as the agent does it: the ban, then its bit in the filter.
    pub fn ban(&mut self, address: Address, expires_ns: u64) {
        let key = address.ban_key();
        self.bans.insert(key, [expires_ns, 0], 0).expect("a ban is written");
        let bit = FilterBit::of(key);
        self.mark_banned(bit.word, bit.mask);
    }

    /// Bans the first `length` bits of an address, as the agent does it: the ban, its bits in the
    /// filter, and that there is any.
    pub fn ban_prefix(&mut self, length: u32, address: Address, expires_ns: u64) {
        let key = Key::new(length, address.to_bytes());
        if self.ban_prefixes.get(&key, 0).is_err() {
            self.words[control::PREFIX_BANS] += 1;
        }
        self.ban_prefixes.insert(&key, [expires_ns, 0], 0).expect("a ban is written");
        for address in touched(length, address) {
            let bit = PrefixBit::of(address);
            self.mark_banned(bit.word, bit.mask);
        }
        self.write_control();
    }

    fn mark_banned(&mut self, word: u32, mask: u64) {
        let bits = self.ban_filter.get(&word, 0).expect("the filter is read");
        self.ban_filter.set(word, bits | mask, 0).expect("the filter is written");
    }

    /// The ban of this key.
    pub fn ban_of(&self, key: u64) -> Option<Ban> {
        let [expires_ns, packets] = self.bans.get(&key, 0).ok()?;
        Some(Ban { expires_ns, packets })
    }

    /// The ban of this prefix.
    pub fn prefix_ban_of(&self, length: u32, address: Address) -> Option<Ban> {
        let key = Key::new(length, address.to_bytes());
        let [expires_ns, packets] = self.ban_prefixes.get(&key, 0).ok()?;
        Some(Ban { expires_ns, packets })
    }

    /// Replaces one half of the lists, and what lies before it.
    pub fn set_lists(&mut self, second: bool, lists: Lists) {
        let (number, half) = (u32::from(second), &mut self.lists[usize::from(second)]);
        for (map, words, before, after) in [
            (&mut self.list_filter, LIST_FILTER_WORDS, &half.loaded.filter, &lists.filter),
            (&mut self.list_bitmap, LIST_BITMAP_WORDS, &half.loaded.bitmap, &lists.bitmap),
        ] {
            for word in 0..words {
                let of = |words: &[u64]| words.get(word as usize).copied().unwrap_or(0);
                if of(before) != of(after) {
                    map.set(number * words + word, of(after), 0).expect("a word is written");
                }
            }
        }
        half.replace(lists);
    }

    /// Says how many connections are open: of a source (or one at a service), or in all.
    pub fn set_open(&mut self, key: u64, count: u64) {
        self.connections.insert(key, count, 0).expect("a count is written");
    }

    /// Says how many connections are open to a service, or (0) to the host.
    pub fn set_open_total(&mut self, service: u32, count: u64) {
        self.open_totals.set(service, count, 0).expect("a count is written");
    }

    /// One set of the source table.
    pub fn source_set(&self, index: u32) -> ([u64; KEY_WORDS], [u64; SET_WORDS]) {
        let keys = self.keys.get(&index, 0).expect("a set is read");
        (keys, self.slots.get(&index, 0).expect("a set is read"))
    }

    /// Empties one set of the source table.
    pub fn clear_source_set(&mut self, index: u32) {
        self.keys.set(index, [0; KEY_WORDS], 0).expect("a set is written");
        self.slots.set(index, [0; SET_WORDS], 0).expect("a set is written");
    }

    /// What all sources may still send to a service.
    pub fn totals(&self, service: u32) -> [u64; BUCKET_WORDS] {
        self.totals.get(&service, 0).expect("totals are read")
    }

    /// Each CPU's share of that.
    pub fn pending(&self, service: u32) -> PerCpuValues<[u64; BUCKET_WORDS]> {
        self.pending.get(&service, 0).expect("shares are read")
    }

    /// Each CPU's claims.
    pub fn claims(&self) -> PerCpuValues<[u64; 2]> {
        self.claims.get(&0, 0).expect("claims are read")
    }

    /// Packets with this flaw.
    pub fn flaw(&self, index: u32) -> u64 {
        self.flaws.get(&index, 0).expect("a counter is read").iter().sum()
    }

    /// One counter of interface 0, summed over CPUs.
    pub fn counter(&self, index: u32) -> Counter {
        let mut sum = Counter::default();
        for [packets, bytes] in self.counters.get(&index, 0).expect("a counter is read").iter() {
            sum.packets += packets;
            sum.bytes += bytes;
        }
        sum
    }

    /// The slots of pending drops of one CPU.
    pub fn drop_slots(&self, cpu: usize) -> Vec<DropSlot> {
        let slot = |index| {
            let slots = self.drops.get(&index, 0).expect("a slot is read");
            DropSlot::from_words(slots[cpu])
        };
        (0..DROP_SLOTS).map(slot).collect()
    }

    /// The next record in the ring buffer.
    pub fn next_event(&mut self) -> Option<DropSlot> {
        let record = self.events.next()?;
        let mut words = [0; DROP_WORDS];
        assert_eq!(record.len(), words.len() * 8, "a record is a slot");
        for (word, bytes) in words.iter_mut().zip(record.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        }
        Some(DropSlot::from_words(words))
    }
}

/// Runs the calling test's frames on one CPU, whose slots are then all there are.
pub fn stay_on_cpu(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).expect("a CPU number");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("a CPU to run on");
}

/// A namespace without sockets, so that no packet is a reply.
pub fn quiet_namespace() -> Namespace {
    Namespace::new("packet")
}
