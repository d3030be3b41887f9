//! What a SYN of a flood costs the host: answered by the kernel's own cookies, and by the packet
//! program.
//!
//! One CPU sends SYNs of spoofed sources over a veth pair and does everything that follows from
//! each before it sends the next: driver, XDP, stack, answer, and its way to the other end, where
//! XDP drops it. The time that passes is therefore the CPU time of all of it. Net of the same
//! frames dropped by the first instruction of an XDP program, which is what sending them costs.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use limiter_common::{
    address::Address,
    maps::{control, counter_index},
    settings::Settings,
    verdict::{Reason, Verdict},
};
use limiter_tests::{
    flood,
    netns::Namespace,
    program::{Options, Others, Program, object, stay_on_cpu},
    raw::Port,
    veth::End,
    wait::Deadline,
    world::{SERVER, SERVER_V6, World},
};

use crate::table;

/// Different sources.
const SYNS: usize = 65_536;
/// SYNs of one turn: a few milliseconds, so that most turns are not interrupted.
const TURN: usize = 1_024;
/// How often every SYN is sent. Before that once, which fills the queue of the listener.
const ROUNDS: usize = 6;
const BATCH: usize = 64;
const CPU: usize = 0;
const PORT: u16 = 7_000;
const SETS: u32 = 4_096;
/// Hundredths of what the kernel's own cookies cost.
const TARGET: u128 = 50;

/// What stands between the wire and the listener.
enum Host {
    /// Nothing gets in: what sending costs.
    Discard,
    /// Every frame is sent back as it came: the least that any answer from XDP costs.
    Bounce,
    /// The network stack alone.
    Stack,
    /// The packet program, which leaves cookies to the stack.
    Bystander(Box<Program>),
    /// The packet program, which makes them.
    Program(Box<Program>),
}

struct Row {
    name: &'static str,
    host: Host,
    port: Port,
    listeners: Vec<TcpListener>,
    world: World,
    /// Programs of the measurement, for as long as they are attached.
    others: Vec<Others>,
    /// Time of each turn, by family.
    times: [Vec<Duration>; 2],
}

/// Measures; the table.
pub(crate) fn measure() -> String {
    stay_on_cpu(CPU);
    let mut rows = [
        Row::new("dropped on arrival", |_| Host::Discard),
        Row::new("kernel's own cookies, no XDP", |_| Host::Stack),
        Row::new("kernel's own cookies behind the program", |world| {
            Host::Bystander(program(world, false))
        }),
        Row::new("sent back as it came", |_| Host::Bounce),
        Row::new("the program's cookies", |world| Host::Program(program(world, true))),
    ];
    for (family, host) in [SERVER, SERVER_V6].into_iter().enumerate() {
        let target = SocketAddr::new(host.parse().expect("an address"), PORT);
        // The ends of all wires have the same addresses.
        let syns = flood::syns(&rows[0].world, target, SYNS, 1);
        for row in &mut rows {
            row.turn(&syns);
        }
        let before: Vec<_> = rows.iter().map(Row::counts).collect();
        for _ in 0..ROUNDS {
            for syns in syns.chunks(TURN) {
                for row in &mut rows {
                    let time = row.turn(syns);
                    row.times[family].push(time);
                }
            }
        }
        for (row, before) in rows.iter().zip(before) {
            row.check(before);
        }
    }
    report(&mut rows)
}

/// An object of its own: a program is attached once.
fn attached(name: &str, end: &End) -> Others {
    let mut others = Others::load(&object().with_file_name("limiter-bench.o"), &[name], "NEXT");
    others.attach(name, end);
    others
}

fn program(world: &World, answers: bool) -> Box<Program> {
    let mut program =
        Program::load(Options { fixed_clock: false, sets: SETS, ..Options::default() });
    let mut settings = Settings::open(u64::from(SETS), 0x9e37_79b9_7f4a_7c15);
    let own = world.veth.server.addresses.iter().copied();
    settings.set_own(own.map(Address::from));
    program.calibrate(&mut settings);
    program.set_settings(&settings);
    program.set_control(control::SYN_COOKIES, u64::from(answers));
    program.attach(&world.veth.server);
    Box::new(program)
}

impl Row {
    fn new(name: &'static str, host: impl FnOnce(&World) -> Host) -> Self {
        let world = World::new();
        flood::route(&world);
        world.server.sysctl("net/ipv4/tcp_syncookies", "1");
        world.server.sysctl("net/core/somaxconn", "128");
        let listen = |host: &str| {
            let address = SocketAddr::new(host.parse().expect("an address"), PORT);
            world.server.run(|| TcpListener::bind(address).expect("a listener"))
        };
        let host = host(&world);
        let mut others = vec![attached("discard", &world.veth.client)];
        match host {
            Host::Discard => others.push(attached("discard", &world.veth.server)),
            Host::Bounce => others.push(attached("bounce", &world.veth.server)),
            Host::Stack | Host::Bystander(_) | Host::Program(_) => {}
        }
        Self {
            name,
            host,
            port: Port::open(&world.veth.client),
            listeners: vec![listen(SERVER), listen(SERVER_V6)],
            world,
            others,
            times: [Vec::new(), Vec::new()],
        }
    }

    /// Sends SYNs; how long it took with everything that followed.
    fn turn(&self, syns: &[Vec<u8>]) -> Duration {
        let clock = Deadline::after(Duration::ZERO);
        for batch in syns.chunks(BATCH) {
            self.port.send_batch(batch);
        }
        clock.elapsed()
    }

    /// Cookies that the kernel made, and those of them that the program sent.
    fn counts(&self) -> (u64, u64) {
        let sent = match &self.host {
            Host::Program(program) | Host::Bystander(program) => {
                program.counter(counter_index(0, Verdict::answer(Reason::SynCookie))).packets
            }
            Host::Discard | Host::Bounce | Host::Stack => 0,
        };
        (tcp_ext(&self.world.server, "TCPReqQFullDoCookies"), sent)
    }

    /// A measurement of another path than its name says would be worse than none.
    fn check(&self, before: (u64, u64)) {
        let now = self.counts();
        let (made, sent) = (now.0 - before.0, now.1 - before.1);
        let most = u64::try_from(SYNS * ROUNDS).expect("few") * 9 / 10;
        let is_right = match self.host {
            Host::Discard | Host::Bounce => made == 0,
            Host::Stack | Host::Bystander(_) => made >= most && sent == 0,
            Host::Program(_) => sent >= most,
        };
        let (listeners, others) = (self.listeners.len(), self.others.len());
        assert!(
            is_right,
            "{}: {made} cookies, {sent} of them by the program ({listeners} listeners, {others} \
             other programs)",
            self.name
        );
    }
}

/// A counter of the network stack in a namespace.
fn tcp_ext(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace
        .run(|| fs::read_to_string("/proc/thread-self/net/netstat"))
        .expect("the counters are read");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = names.split(' ').zip(values.split(' ')).find(|(found, _)| *found == name);
    found.and_then(|(_, value)| value.parse().ok()).expect("a counter of TCP")
}

/// Nanoseconds of a SYN, of which a tenth of the turns took no more: what is not disturbed by
/// whatever else the machine does.
fn nanoseconds(times: &mut [Duration]) -> u128 {
    times.sort_unstable();
    times[times.len() / 10].as_nanos() / TURN as u128
}

fn report(rows: &mut [Row]) -> String {
    let header = ["a SYN of a flood", "gross ns", "net ns", "of the kernel's", "target", ""];
    let decimal = |value: u128| format!("{}.{:02}", value / 100, value % 100);
    let mut text = String::new();
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let gross: Vec<u128> =
            rows.iter_mut().map(|row| nanoseconds(&mut row.times[family])).collect();
        let net = |row: usize| gross[row].saturating_sub(gross[0]);
        let mut lines = vec![header.map(str::to_owned).to_vec()];
        for (number, row) in rows.iter().enumerate() {
            let hundredths = net(number) * 100 / net(1).max(1);
            let mut line = vec![
                format!("{name}: {}", row.name),
                gross[number].to_string(),
                net(number).to_string(),
                decimal(hundredths),
            ];
            if let Host::Program(_) = row.host {
                let met = if hundredths <= TARGET { "PASS" } else { "MISS" };
                line.extend([decimal(TARGET), met.to_owned()]);
            }
            lines.push(line);
        }
        text += &table::lines(&lines);
        text.push('\n');
    }
    let turns = ROUNDS * SYNS / TURN;
    text + &format!(
        "quickest tenth of {turns} turns of {TURN} SYNs; net of what sending them costs\n"
    )
}
