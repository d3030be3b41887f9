//! The same frames at the same time through the program in the kernel and through `decide` on the
//! host: the same actions, and the same state after them, to the last word.

use std::net::IpAddr;

use limiter_common::{
    address::Address,
    ban::Ban,
    headers::{Parsed, parse},
    maps::counter_index,
    report::{DROP_SLOTS, DropSlot, GATHER_NS},
    settings::flags,
    source::SourceSet,
    verdict::{Action, Reason, Verdict},
};
use limiter_tests::{
    frames::Generator,
    program::{Options, Program, quiet_namespace, stay_on_cpu},
    random::Random,
};
use limiter_user::clock;

use crate::{
    policies::{Policy, SETS, address, entries, policies, sources},
    reference::{Entry, Reference},
};

const FIXED_SEED: u64 = 0x6c69_6d69_7465_7221;
const FIXED_FRAMES_PER_POLICY: u32 = 7_000;
const FRESH_FRAMES_PER_POLICY: u32 = 2_000;
/// How often everything is compared; each frame compares its action and its counter.
const COMPARED_EVERY: u32 = 500;
/// Less than the 4 681 records that the ring buffer holds.
const DRAINED_ABOVE: usize = 3_000;
const CPU: usize = 0;
/// What frames pass and are dropped for; replies need sockets, see the tests of replies.
const PASSES: &[Reason] = &[
    Reason::Allowed,
    Reason::Essential,
    Reason::Trusted,
    Reason::Failsafe,
    Reason::Malformed,
    Reason::Fragment,
    Reason::TableFull,
];
const DROPS: &[Reason] = &[
    Reason::Banned,
    Reason::Denied,
    Reason::NotAllowed,
    Reason::PacketRate,
    Reason::ConnectionRate,
    Reason::Malformed,
    Reason::Fragment,
    Reason::TableFull,
];
/// The policy that monitors does not refuse fragments or full tables.
const SELDOM_MONITORED: &[Reason] = &[Reason::Fragment, Reason::TableFull];
const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn kernel_and_host_agree_about_the_frames_of_a_fixed_seed() {
    let host = quiet_namespace().run(|| compare(FIXED_SEED, FIXED_FRAMES_PER_POLICY));
    // A comparison of frames that all end alike would prove little.
    for (action, reasons) in
        [(Action::Pass, PASSES), (Action::Drop, DROPS), (Action::Monitor, DROPS)]
    {
        for reason in reasons {
            let verdict = Verdict { action, reason: *reason };
            let seen = host.counters[counter_index(0, verdict) as usize].packets;
            let rare = action == Action::Monitor && SELDOM_MONITORED.contains(reason);
            assert!(rare || seen >= 5, "{verdict:?} only {seen} times");
        }
    }
}

#[test]
fn kernel_and_host_agree_about_the_frames_of_a_fresh_seed() {
    let _host = quiet_namespace().run(|| compare(clock::monotonic_ns(), FRESH_FRAMES_PER_POLICY));
}

/// Returns the host's side, which agrees with the kernel's.
fn compare(seed: u64, frames_per_policy: u32) -> Reference {
    stay_on_cpu(CPU);
    println!("seed {seed:#x}");
    let mut pair = Pair::new(seed);
    for policy in policies() {
        pair.begin(policy);
        for number in 0..frames_per_policy {
            pair.step(number);
            if number % COMPARED_EVERY == COMPARED_EVERY - 1 {
                pair.compare_everything();
            }
        }
        pair.compare_everything();
    }
    pair.overflow();
    pair.host
}

/// Both sides and where the sequence is.
struct Pair {
    seed: u64,
    policy: &'static str,
    generator: Generator,
    random: Random,
    sources: Vec<IpAddr>,
    now_ns: u64,
    kernel: Program,
    host: Reference,
    told: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let sources = sources();
        Self {
            seed,
            policy: "",
            generator: Generator::new(seed).sources(&sources),
            random: Random::new(!seed),
            sources,
            now_ns: 1_000 * SECOND_NS,
            kernel: Program::load(Options { sets: SETS, ..Options::default() }),
            host: Reference::new(SETS),
            told: 0,
        }
    }

    /// Switches both to a policy; what they know of sources stays, unless it starts afresh.
    fn begin(&mut self, policy: Policy) {
        self.policy = policy.name;
        if self.random.chance(1, 2) {
            for index in 0..SETS {
                self.kernel.clear_source_set(index);
                self.host.sets[index as usize] = SourceSet::empty();
            }
        }
        let generation = self.host.settings.generation + 1;
        self.host.settings = policy.settings;
        self.host.settings.generation = generation;
        if generation % 2 == 1 {
            self.host.settings.flags |= flags::LISTS_SECOND;
        }
        let second = usize::from(generation % 2 == 1);
        for entry in entries() {
            self.set_entry(second, entry);
        }
        self.host.settings.fixed_now_ns = self.now_ns;
        self.kernel.switch_settings(&self.host.settings);
    }

    fn set_entry(&mut self, second: usize, entry: Entry) {
        let list = &mut self.host.lists[second];
        list.retain(|(prefix, address, _)| (*prefix, *address) != (entry.0, entry.1));
        list.push(entry);
        let flags = if second == 1 { flags::LISTS_SECOND } else { 0 };
        self.kernel.list(flags, entry.0, entry.1, entry.2);
    }

    /// One frame through both.
    fn step(&mut self, number: u32) {
        if self.random.chance(1, 100) {
            self.change_bans();
        }
        let frame = self.generator.any();
        self.now_ns = self.next_time(&frame);
        self.host.settings.fixed_now_ns = self.now_ns;
        self.kernel.set_settings(&self.host.settings);

        let (decision, counter, expected) = self.host.run(&frame);
        let action = self.kernel.run(&frame);
        let kernel_counts = self.kernel.counter(counter);
        let agree = action == expected && kernel_counts == self.host.counters[counter as usize];
        assert!(
            agree,
            "seed {:#x}, policy {}, frame {number} at {}: the host decides {decision:?}, the \
             kernel returns {action} and counts {kernel_counts:?} where the host has {:?}\n{}",
            self.seed,
            self.policy,
            self.now_ns,
            self.host.counters[counter as usize],
            hex(&frame),
        );
        if self.host.records.len() > DRAINED_ABOVE {
            self.compare_records();
        }
    }

    /// A ban made, changed or prolonged.
    fn change_bans(&mut self) {
        let source = address(self.random.pick(&self.sources));
        let expires_ns = self.now_ns + self.random.next_u64() % (3 * SECOND_NS);
        self.kernel.ban(source, expires_ns);
        let ban = Ban { expires_ns, packets: 0 };
        self.host.bans.borrow_mut().insert(source.ban_key(), ban);
    }

    /// A third of the frames come when something about their source changes, give or take 1 ns.
    fn next_time(&mut self, frame: &[u8]) -> u64 {
        let edges = if self.random.chance(1, 2) { self.edges(frame) } else { Vec::new() };
        if !edges.is_empty() {
            let edge = self.random.pick(&edges);
            // Far ones seldom, or every bucket would be full whenever it is looked at.
            if edge.abs_diff(self.now_ns) < 2 * SECOND_NS || self.random.chance(1, 50) {
                return edge + self.random.next_u64() % 3 - 1;
            }
        }
        let step = self.random.pick(&[0, 0, 1, 100, 1_000_000, 100_000_000]);
        self.now_ns + self.random.next_u64() % (step + 1)
    }

    /// When buckets refill or are full, a ban ends, drops are told.
    fn edges(&self, frame: &[u8]) -> Vec<u64> {
        let source = match parse(frame) {
            Parsed::Ip(headers) => headers.source,
            Parsed::Malformed(source) => source,
            Parsed::NotIp => return Vec::new(),
        };
        let mut edges = Vec::new();
        if let Some(slot) = self.host.slot(source) {
            let settings = &self.host.settings;
            let buckets = [
                (&slot.packet_bucket, settings.packets),
                (&slot.connection_bucket, settings.connections),
            ];
            for (word, rate) in buckets {
                let full = word.load(std::sync::atomic::Ordering::Relaxed);
                let room = (full + rate.cost_ticks).saturating_sub(rate.burst_ticks);
                edges.extend([full, room].map(|ticks| ticks.div_ceil(16)));
            }
        }
        if let Some(ban) = self.host.bans.borrow().get(&source.ban_key()) {
            edges.push(ban.expires_ns);
        }
        let slot = self.host.drops[DropSlot::index(source) as usize];
        if slot.source == source {
            edges.push(slot.since_ns + GATHER_NS);
        }
        edges.retain(|edge| *edge > SECOND_NS);
        edges
    }

    fn compare_everything(&mut self) {
        let place = format!("seed {:#x}, policy {}", self.seed, self.policy);
        for (index, set) in self.host.sets.iter().enumerate() {
            let kernel = self.kernel.source_set(u32::try_from(index).expect("few"));
            assert_eq!(kernel, set.to_words(), "{place}: source set {index}");
        }
        for (key, ban) in self.host.bans.borrow().iter() {
            let kernel = self.kernel.ban_of(*key);
            let source = Address::from_key(*key);
            assert_eq!(kernel, Some(*ban), "{place}: ban of {source:?}");
        }
        self.compare_counters();
        let slots = self.kernel.drop_slots(CPU);
        for (index, (kernel, host)) in slots.iter().zip(&self.host.drops).enumerate() {
            assert_eq!(kernel, host, "{place}: pending drops in slot {index}");
        }
        self.compare_records();
        self.compare_totals();
    }

    fn compare_counters(&self) {
        for (index, host) in self.host.counters.iter().enumerate() {
            let kernel = self.kernel.counter(u32::try_from(index).expect("few"));
            assert_eq!(kernel, *host, "seed {:#x}, {}: counter {index}", self.seed, self.policy);
        }
    }

    fn compare_records(&mut self) {
        for host in std::mem::take(&mut self.host.records) {
            let kernel = self.kernel.next_event();
            assert_eq!(kernel, Some(host), "seed {:#x}, policy {}", self.seed, self.policy);
            self.told += host.packets;
        }
        assert_eq!(self.kernel.next_event(), None, "a record that the host has not");
    }

    /// Every packet that did not simply pass is told, pending or lost, and nothing else is.
    fn compare_totals(&self) {
        let packets = |from: usize, to: usize| -> u64 {
            self.host.counters[from..to].iter().map(|counter| counter.packets).sum()
        };
        let passed = Reason::COUNT;
        let dropped = packets(passed, Verdict::COUNTERS);
        let lost = packets(Verdict::COUNTERS, self.host.counters.len());
        let pending: u64 = self.host.drops.iter().map(|slot| slot.packets).sum();
        assert_eq!(dropped, self.told + pending + lost, "seed {:#x}", self.seed);
    }

    /// Records that find the ring buffer full are counted as lost, and the verdict is the same.
    fn overflow(&mut self) {
        let sources = self.sources.clone();
        let mut settings = self.host.settings;
        settings.flags = flags::DEFAULT_DENY;
        settings.generation += 1;
        self.host.settings = settings;
        let mut generator = Generator::new(self.seed).sources(&sources);
        while self.host.records.len() < 6_000 {
            self.now_ns += 2 * GATHER_NS;
            self.host.settings.fixed_now_ns = self.now_ns;
            self.kernel.set_settings(&self.host.settings);
            let frame = generator.valid();
            let (_, _, expected) = self.host.run(&frame);
            assert_eq!(self.kernel.run(&frame), expected);
        }
        let records = std::mem::take(&mut self.host.records);
        let mut kept = 0;
        while let Some(record) = self.kernel.next_event() {
            assert_eq!(record, records[kept], "record {kept}");
            self.told += record.packets;
            kept += 1;
        }
        assert!((4_000..5_000).contains(&kept), "{kept} records in the ring buffer");
        for record in &records[kept..] {
            let verdict = usize::try_from(record.verdict - 1).expect("small");
            let lost = &mut self.host.counters[Verdict::COUNTERS + verdict];
            lost.packets += record.packets;
            lost.bytes += record.bytes;
        }
        self.policy = "overflow";
        self.compare_counters();
        self.compare_totals();
        assert_eq!(self.kernel.drop_slots(CPU).len(), DROP_SLOTS as usize);
    }
}

/// As in the case files.
fn hex(frame: &[u8]) -> String {
    frame.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
