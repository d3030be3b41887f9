//! The packet program by itself: its object loaded without the agent, its maps as the types of
//! `limiter-common`, frames through `BPF_PROG_TEST_RUN`. Nothing is pinned: what is loaded here
//! ends with its value.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, ProgramArray, RingBuf, lpm_trie::Key,
    },
    programs::{
        Xdp,
        xdp::{XdpLinkId, XdpMode},
    },
};
use limiter_common::{
    address::Address,
    ban::{Ban, FilterBit},
    lists::ListValue,
    maps::{self, control},
    report::{Counter, DROP_SLOTS, DROP_WORDS, DropSlot},
    settings::{SETTINGS_WORDS, Settings, flags},
    source::{SET_WORDS, WAYS},
};
use limiter_user::clock;

use crate::{netns::Namespace, veth::End};

/// Name of the program that decides about packets.
const LIMITER: &str = "limiter";
/// Name of the program that reads the kernel's clocks.
const CLOCK_PROBE: &str = "clock_probe";
/// Enough to meet a moment just after a tick.
const CLOCK_SAMPLES: u32 = 20_000;

/// How large the maps are, and whose time it is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sets of the source table: a power of two.
    pub sets: u32,
    /// Entries of the ban map.
    pub bans: u32,
    /// Entries of each list trie.
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
    active: u32,
    control: Array<MapData, [u64; control::WORDS]>,
    settings: Array<MapData, [u64; SETTINGS_WORDS]>,
    keys: Array<MapData, [u64; WAYS]>,
    slots: Array<MapData, [u64; SET_WORDS]>,
    bans: HashMap<MapData, u64, [u64; 2]>,
    ban_filter: Array<MapData, u64>,
    lists: [LpmTrie<MapData, [u8; 16], u64>; 2],
    counters: PerCpuArray<MapData, [u64; 2]>,
    drops: PerCpuArray<MapData, [u64; DROP_WORDS]>,
    events: RingBuf<MapData>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("active", &self.active).finish_non_exhaustive()
    }
}

impl Program {
    /// Loads the program of [`object`].
    pub fn load(options: Options) -> Self {
        let mut ebpf = open(&object(), options);
        load(&mut ebpf, LIMITER);
        load(&mut ebpf, CLOCK_PROBE);
        let first = map(&mut ebpf, maps::LISTS_FIRST);
        let second = map(&mut ebpf, maps::LISTS_SECOND);
        Self {
            active: 0,
            control: typed(map(&mut ebpf, maps::CONTROL)),
            settings: typed(map(&mut ebpf, maps::SETTINGS)),
            keys: typed(map(&mut ebpf, maps::KEYS)),
            slots: typed(map(&mut ebpf, maps::SLOTS)),
            bans: typed(map(&mut ebpf, maps::BANS)),
            ban_filter: typed(map(&mut ebpf, maps::BAN_FILTER)),
            lists: [typed(first), typed(second)],
            counters: typed(map(&mut ebpf, maps::COUNTERS)),
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
        self.settings.set(self.active, settings.to_words(), 0).expect("settings are written");
    }

    /// Settings that take effect by a switch to the other half of the map, as the agent does it.
    pub fn switch_settings(&mut self, settings: &Settings) {
        self.active ^= 1;
        self.set_settings(settings);
        let mut words = [0; control::WORDS];
        words[control::ACTIVE] = u64::from(self.active);
        self.control.set(0, words, 0).expect("the switch is written");
    }

    /// Bans the key of an address, as the agent does it: the ban, then its bit in the filter.
    pub fn ban(&mut self, address: Address, expires_ns: u64) {
        let key = address.ban_key();
        self.bans.insert(key, [expires_ns, 0], 0).expect("a ban is written");
        let bit = FilterBit::of(key);
        let word = self.ban_filter.get(&bit.word, 0).expect("the filter is read");
        self.ban_filter.set(bit.word, word | bit.mask, 0).expect("the filter is written");
    }

    /// The ban of this key.
    pub fn ban_of(&self, key: u64) -> Option<Ban> {
        let [expires_ns, packets] = self.bans.get(&key, 0).ok()?;
        Some(Ban { expires_ns, packets })
    }

    /// Adds an entry to the list trie that settings with these flags use.
    pub fn list(&mut self, flags: u64, prefix_bits: u32, address: Address, value: ListValue) {
        let second = usize::from(flags & flags::LISTS_SECOND != 0);
        let key = Key::new(prefix_bits, address.to_bytes());
        self.lists[second].insert(&key, value.word(), 0).expect("a list entry is written");
    }

    /// One set of the source table.
    pub fn source_set(&self, index: u32) -> ([u64; WAYS], [u64; SET_WORDS]) {
        let keys = self.keys.get(&index, 0).expect("a set is read");
        (keys, self.slots.get(&index, 0).expect("a set is read"))
    }

    /// Empties one set of the source table.
    pub fn clear_source_set(&mut self, index: u32) {
        self.keys.set(index, [0; WAYS], 0).expect("a set is written");
        self.slots.set(index, [0; SET_WORDS], 0).expect("a set is written");
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

    /// Fills in what lets the program tell `CLOCK_MONOTONIC` from jiffies, never late by more
    /// than a tick and never early.
    pub fn calibrate(&self, settings: &mut Settings) {
        settings.tick_ns = clock::tick_ns();
        let mut offset = None;
        for _ in 0..CLOCK_SAMPLES {
            let mut out = [0; 64];
            let options = TestRunOptions {
                data_in: Some(&[0; 64]),
                data_out: Some(&mut out),
                ..TestRunOptions::new()
            };
            let probe: &Xdp =
                self.ebpf.program(CLOCK_PROBE).expect(CLOCK_PROBE).try_into().expect("XDP");
            probe.test_run(options).expect("the clocks are read");
            let word = |at: usize| u64::from_ne_bytes(out[at..at + 8].try_into().expect("8 bytes"));
            let difference = word(8).wrapping_sub(word(0).wrapping_mul(settings.tick_ns));
            let least = offset.get_or_insert(difference);
            if difference.wrapping_sub(*least).cast_signed() < 0 {
                *least = difference;
            }
        }
        settings.tick_offset_ns = offset.unwrap_or_default();
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

/// Programs of another object, without maps that matter: what the program is measured against.
pub struct Others {
    ebpf: Ebpf,
    next: ProgramArray<MapData>,
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").field("ebpf", &self.ebpf).finish_non_exhaustive()
    }
}

impl Others {
    /// Loads these programs of the object at `path`, whose map `next` is where one of them goes on.
    pub fn load(path: &Path, names: &[&str], next: &str) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut ebpf = EbpfLoader::new().load(&bytes).expect("maps are made");
        for name in names {
            load(&mut ebpf, name);
        }
        let next = typed(map(&mut ebpf, next));
        Self { ebpf, next }
    }

    /// Goes on to a program of its own.
    pub fn go_on_to(&mut self, name: &str) {
        let program: &Xdp = self.ebpf.program(name).expect("loaded").try_into().expect("XDP");
        self.next.set(0, program.fd().expect("loaded"), 0).expect("the next program is written");
    }

    /// Goes on to the packet program.
    pub fn go_on_to_limiter(&mut self, program: &Program) {
        let limiter = program.ebpf.program(LIMITER).expect("loaded");
        let limiter: &Xdp = limiter.try_into().expect("XDP");
        self.next.set(0, limiter.fd().expect("loaded"), 0).expect("the next program is written");
    }

    /// As [`Program::time`].
    pub fn time(&self, name: &str, frame: &[u8], repeat: u32) -> (u32, Duration) {
        run(&self.ebpf, name, frame, repeat)
    }

    /// As [`Program::verified_instructions`].
    pub fn verified_instructions(&self, name: &str) -> u32 {
        verified_instructions(&self.ebpf, name)
    }
}

fn open(path: &Path, options: Options) -> Ebpf {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fixed = u32::from(options.fixed_clock);
    EbpfLoader::new()
        .override_global("FIXED_CLOCK", &fixed, true)
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .map_max_entries(maps::KEYS, options.sets)
        .map_max_entries(maps::SLOTS, options.sets)
        .map_max_entries(maps::BANS, options.bans)
        .map_max_entries(maps::LISTS_FIRST, options.lists)
        .map_max_entries(maps::LISTS_SECOND, options.lists)
        .load(&bytes)
        .expect("maps are made (root)")
}

fn load(ebpf: &mut Ebpf, name: &str) {
    xdp(ebpf, name).load().unwrap_or_else(|error| panic!("load {name}: {error}"));
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}"));
    program.try_into().expect("an XDP program")
}

fn run(ebpf: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> (u32, Duration) {
    let program = ebpf.program(name).unwrap_or_else(|| panic!("no program {name}"));
    let program: &Xdp = program.try_into().expect("an XDP program");
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
    let result = program.test_run(options);
    let result = result.unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    (result.return_value, result.duration)
}

fn verified_instructions(ebpf: &Ebpf, name: &str) -> u32 {
    let program = ebpf.program(name).unwrap_or_else(|| panic!("no program {name}"));
    let info = program.info().expect("the kernel describes its program");
    info.verified_instruction_count().unwrap_or_default()
}

fn map(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).unwrap_or_else(|| panic!("no map {name}"))
}

fn typed<T: TryFrom<Map>>(map: Map) -> T
where
    T::Error: fmt::Debug,
{
    map.try_into().expect("a map of this type")
}
