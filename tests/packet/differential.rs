//! The same frames at the same time through the program in the kernel and through `decide` on the
//! host: the same actions, and the same state after them, to the last word.

mod compare;
mod edges;

use std::{net::IpAddr, thread};

use limiter_common::{
    address::Address,
    maps::{SERVICE_COUNT, counter_index},
    report::GATHER_NS,
    settings::flags,
    source::pair_key,
    verdict::{Action, Reason, Verdict},
};
use limiter_tests::{
    frames::Generator,
    lists::Lists,
    netns::Namespace,
    program::{Options, Program, quiet_namespace, stay_on_cpu},
    random::Random,
    reference::Reference,
};
use limiter_user::clock;

use crate::policies::{Named, ROUTES, SETS, address, admitted, entries, ip, policies, sources};

const FIXED_SEED: u64 = 0x6c69_6d69_7465_7221;
const FIXED_FRAMES_PER_POLICY: u32 = 4_500;
const FRESH_FRAMES_PER_POLICY: u32 = 1_200;
/// How often everything is compared; each frame compares its action and its counter.
const COMPARED_EVERY: u32 = 500;
/// Less than the 4 681 records that the ring buffer holds.
const DRAINED_ABOVE: usize = 3_000;
/// What frames pass and are dropped for; replies need sockets, see the tests of replies.
const PASSES: &[Reason] = &[
    Reason::Allowed,
    Reason::Essential,
    Reason::Trusted,
    Reason::Failsafe,
    Reason::Forwarded,
    Reason::Untracked,
    Reason::Malformed,
    Reason::Fragment,
    Reason::TableFull,
];
const DROPS: &[Reason] = &[
    Reason::Banned,
    Reason::Denied,
    Reason::NotAllowed,
    Reason::PacketRate,
    Reason::ByteRate,
    Reason::ConnectionRate,
    Reason::TooManyConnections,
    Reason::UdpRate,
    Reason::IcmpRate,
    Reason::TotalRate,
    Reason::Malformed,
    Reason::Fragment,
    Reason::TableFull,
];
/// What no policy that monitors limits.
const SELDOM_MONITORED: &[Reason] =
    &[Reason::Fragment, Reason::TableFull, Reason::UdpRate, Reason::IcmpRate];
const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn kernel_and_host_agree_about_the_frames_of_a_fixed_seed() {
    let host = router().run(|| compare(FIXED_SEED, FIXED_FRAMES_PER_POLICY));
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
    assert!(host.flaws[1..].iter().all(|count| *count >= 5), "{:?}", host.flaws);
}

#[test]
fn kernel_and_host_agree_about_the_frames_of_a_fresh_seed() {
    let _host = router().run(|| compare(clock::monotonic_ns(), FRESH_FRAMES_PER_POLICY));
}

/// A namespace without sockets that sends packets on to [`ROUTES`].
fn router() -> Namespace {
    let namespace = quiet_namespace();
    namespace.batch(
        "link add towards type veth peer name away\nlink set towards up\nlink set away up\n",
    );
    namespace.sysctl("net/ipv4/ip_forward", "1");
    namespace.sysctl("net/ipv6/conf/all/forwarding", "1");
    for (network, length) in ROUTES {
        let bits = if ip(network).is_ipv4() { length - 96 } else { length };
        namespace.batch(&format!("route add {network}/{bits} dev towards\n"));
    }
    namespace
}

/// Returns the host's side, which agrees with the kernel's.
fn compare(seed: u64, frames_per_policy: u32) -> Reference {
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
    has_lists: bool,
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
        let cpus = thread::available_parallelism().map_or(1, usize::from).min(2);
        stay_on_cpu(0);
        let mut host = Reference::new(SETS, cpus);
        host.routes = ROUTES.map(|(network, length)| (length, ip(network).into())).to_vec();
        Self {
            seed,
            policy: "",
            has_lists: false,
            generator: Generator::new(seed).sources(&sources),
            random: Random::new(!seed),
            sources,
            now_ns: 1_000 * SECOND_NS,
            kernel: Program::load(Options { sets: SETS, ..Options::default() }),
            host,
            told: 0,
        }
    }

    /// Switches both to a policy; what they know of sources stays, unless it starts afresh.
    fn begin(&mut self, next: Named) {
        self.policy = next.name;
        self.has_lists = next.has_lists;
        if self.random.chance(1, 2) {
            for index in 0..SETS {
                self.kernel.clear_source_set(index);
            }
            self.host.clear_sources();
        }
        let generation = self.host.policy.settings.generation + 1;
        let second = generation % 2 == 1;
        self.host.policy = next.policy;
        let settings = &mut self.host.policy.settings;
        settings.generation = generation;
        settings.fixed_now_ns = self.now_ns;
        if next.has_lists {
            let entries = entries().into_iter().filter(|_| self.random.chance(7, 8)).collect();
            let lists = Lists::new(entries, admitted(), settings.masks);
            lists.apply(settings, second);
            self.host.lists[usize::from(second)] = lists.clone();
            self.kernel.set_lists(second, lists);
        }
        self.kernel.switch(&self.host.policy);
        self.change_connections();
    }

    /// Who has how many connections open, by the source and at each service.
    fn change_connections(&mut self) {
        let settings = self.host.policy.settings;
        for source in self.sources.clone() {
            let key = address(source).source_key(settings.masks);
            for service in [0, 1, 2, 30, 31] {
                let key =
                    if service == 0 { key } else { pair_key(key, service, settings.hash_seed) };
                let count = self.random.next_u64() % 6;
                self.kernel.set_open(key, count);
                self.host.connections.insert(key, count);
            }
        }
        for service in 0..SERVICE_COUNT {
            let count = self.random.next_u64() % 12;
            self.kernel.set_open_total(service, count);
            self.host.open_totals[service as usize] = count;
        }
    }

    /// One frame through both.
    fn step(&mut self, number: u32) {
        if self.random.chance(1, 100) {
            self.change_bans();
        }
        if self.random.chance(1, 400) {
            self.change_connections();
        }
        if self.random.chance(1, 50) {
            self.host.cpu = u32::try_from(self.random.below(self.host.cpus.len())).expect("few");
            stay_on_cpu(self.host.cpu as usize);
        }
        let frame = self.generator.any();
        self.now_ns = self.next_time(&frame);
        self.host.policy.settings.fixed_now_ns = self.now_ns;
        self.kernel.set_settings(&self.host.policy.settings);

        let (decision, counter, expected) = self.host.run(&frame);
        let action = self.kernel.run(&frame);
        let kernel_counts = self.kernel.counter(counter);
        let agree = action == expected
            && kernel_counts == self.host.counters[counter as usize]
            && self.agrees_with_the_lists(&frame, &decision);
        assert!(
            agree,
            "seed {:#x}, policy {}, frame {number} at {}: the host decides {decision:?}, the \
             kernel returns {action} and counts {kernel_counts:?} where the host has {:?}; the \
             lists say {:?}\n{}",
            self.seed,
            self.policy,
            self.now_ns,
            self.host.counters[counter as usize],
            self.host.naive_list(decision.source),
            hex(&frame),
        );
        if self.host.records.len() > DRAINED_ABOVE {
            self.compare_records();
        }
    }

    /// A ban made, changed or prolonged, of an address or a prefix around it.
    fn change_bans(&mut self) {
        let source = address(self.random.pick(&self.sources));
        let expires_ns = self.now_ns + self.random.next_u64() % (3 * SECOND_NS);
        if self.random.chance(2, 3) {
            self.kernel.ban(source, expires_ns);
            self.host.ban(source, expires_ns);
            return;
        }
        let lengths: &[u32] =
            if source.is_v4() { &[96 + 15, 96 + 16, 96 + 30, 128] } else { &[28, 32, 56, 127] };
        let length = self.random.pick(lengths);
        let bits = u128::from_be_bytes(source.to_bytes()) & (u128::MAX << (128 - length));
        let prefix: Address = IpAddr::from(bits.to_be_bytes()).into();
        // Not too long: most sources lie in them.
        let expires_ns = self.now_ns + self.random.next_u64() % (SECOND_NS / 50);
        self.kernel.ban_prefix(length, prefix, expires_ns);
        self.host.ban_prefix(length, prefix, expires_ns);
    }

    /// Records that find the ring buffer full are counted as lost, and the verdict is the same.
    fn overflow(&mut self) {
        let sources = self.sources.clone();
        let settings = &mut self.host.policy.settings;
        settings.flags = flags::DEFAULT_DENY;
        settings.generation += 1;
        let mut generator = Generator::new(self.seed).sources(&sources);
        while self.host.records.len() < 6_000 {
            self.now_ns += 2 * GATHER_NS;
            self.host.policy.settings.fixed_now_ns = self.now_ns;
            self.kernel.set_settings(&self.host.policy.settings);
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
            let verdict = usize::try_from((record.verdict & 0xffff) - 1).expect("small");
            let lost = &mut self.host.counters[Verdict::COUNTERS + verdict];
            lost.packets += record.packets;
            lost.bytes += record.bytes;
        }
        self.policy = "overflow";
        self.compare_counters();
        self.compare_totals();
    }
}

/// As in the case files.
fn hex(frame: &[u8]) -> String {
    frame.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
