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
    maps::{control, counter_index},
    settings::Settings,
    verdict::{Reason, Verdict},
};
use limiter_tests::{
    flood,
    netns::Namespace,
    program::{Options, Others, Program, object, stay_on_cpu},
    raw::Port,
    wait::Deadline,
    world::{SERVER, SERVER_V6, World},
};

use crate::table;

/// Different sources; as many SYNs are sent in one turn.
const SYNS: usize = 65_536;
const TURNS: usize = 7;
const BATCH: usize = 64;
const CPU: usize = 0;
const PORT: u16 = 7_000;
const SETS: u32 = 4_096;
/// Hundredths of what the kernel's own cookies cost.
const TARGET: u128 = 50;

/// What stands between the wire and the listener.
enum Host {
    /// Nothing gets in: what sending costs.
    Dropped(Others),
    /// The network stack alone.
    Stack,
    /// The packet program, which leaves cookies to the stack or makes them.
    Program(Box<Program>),
}

struct Row {
    name: &'static str,
    host: Host,
    port: Port,
    _clients: Others,
    _listeners: Vec<TcpListener>,
    world: World,
    /// Least time of a turn, by family.
    least: [Duration; 2],
}

/// Measures; the table.
pub(crate) fn measure() -> String {
    stay_on_cpu(CPU);
    let mut rows = [
        row("dropped on arrival", dropped),
        row("kernel's own cookies, no XDP", |_| Host::Stack),
        row("kernel's own cookies behind the program", |world| program(world, false)),
        row("the program's cookies", |world| program(world, true)),
    ];
    for host in [SERVER, SERVER_V6] {
        let family = usize::from(host.contains(':'));
        let target = SocketAddr::new(host.parse().expect("an address"), PORT);
        // The ends of all wires have the same addresses.
        let syns = flood::syns(&rows[0].world, target, SYNS, 1);
        for turn in 0..=TURNS {
            for row in &mut rows {
                let time = row.turn(&syns);
                // The first one fills the queue of the listener.
                if turn > 0 {
                    row.least[family] = row.least[family].min(time);
                }
            }
        }
    }
    report(&rows)
}

fn row(name: &'static str, host: impl FnOnce(&World) -> Host) -> Row {
    let world = World::new();
    flood::route(&world);
    world.server.sysctl("net/ipv4/tcp_syncookies", "1");
    world.server.sysctl("net/core/somaxconn", "128");
    let listen = |host: &str| {
        let address = SocketAddr::new(host.parse().expect("an address"), PORT);
        world.server.run(|| TcpListener::bind(address).expect("a listener"))
    };
    let mut clients = others();
    clients.attach("discard", &world.veth.client);
    Row {
        name,
        host: host(&world),
        port: Port::open(&world.veth.client),
        _clients: clients,
        _listeners: vec![listen(SERVER), listen(SERVER_V6)],
        world,
        least: [Duration::MAX; 2],
    }
}

/// Programs of the benchmark, in an object of their own: each is attached once.
fn others() -> Others {
    Others::load(&object().with_file_name("limiter-bench.o"), &["discard"], "NEXT")
}

fn dropped(world: &World) -> Host {
    let mut others = others();
    others.attach("discard", &world.veth.server);
    Host::Dropped(others)
}

fn program(world: &World, answers: bool) -> Host {
    let mut program =
        Program::load(Options { sets: SETS, bans: 65_536, lists: 1_024, fixed_clock: false });
    let mut settings = Settings::open(u64::from(SETS), 0x9e37_79b9_7f4a_7c15);
    program.calibrate(&mut settings);
    program.set_settings(&settings);
    program.set_control(control::SYN_COOKIES, u64::from(answers));
    program.attach(&world.veth.server);
    Host::Program(Box::new(program))
}

impl Row {
    /// Sends every SYN once; how long it took with everything that followed.
    fn turn(&self, syns: &[Vec<u8>]) -> Duration {
        let before = (self.cookies(), self.answers());
        let clock = Deadline::after(Duration::ZERO);
        for batch in syns.chunks(BATCH) {
            self.port.send_batch(batch);
        }
        let time = clock.elapsed();
        // A measurement of another path than its name says would be worse than none.
        let made = self.cookies() - before.0;
        let answered = self.answers() - before.1;
        let most = u64::try_from(SYNS).expect("few") * 9 / 10;
        let is_right = match &self.host {
            Host::Dropped(_) => made == 0,
            Host::Stack => made >= most,
            Host::Program(_) if answered > 0 => made >= most && answered >= most,
            Host::Program(_) => made >= most,
        };
        assert!(is_right, "{}: {made} cookies, {answered} of them by the program", self.name);
        time
    }

    /// Cookies that the kernel made, for itself or for the program.
    fn cookies(&self) -> u64 {
        tcp_ext(&self.world.server, "TCPReqQFullDoCookies")
    }

    fn answers(&self) -> u64 {
        let Host::Program(program) = &self.host else { return 0 };
        program.counter(counter_index(0, Verdict::answer(Reason::SynCookie))).packets
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

fn report(rows: &[Row]) -> String {
    let header = ["a SYN of a flood", "gross ns", "net ns", "of the kernel's", "target", ""];
    let mut text = String::new();
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let gross = |row: &Row| row.least[family].as_nanos() / SYNS as u128;
        let base = gross(&rows[0]);
        let net = |row: &Row| gross(row).saturating_sub(base);
        let kernel = net(&rows[1]).max(1);
        let mut lines = vec![header.map(str::to_owned).to_vec()];
        for (number, row) in rows.iter().enumerate() {
            let hundredths = net(row) * 100 / kernel;
            let is_ours = number + 1 == rows.len();
            let met = if hundredths <= TARGET { "PASS" } else { "MISS" };
            let decimal = |value: u128| format!("{}.{:02}", value / 100, value % 100);
            lines.push(vec![
                format!("{name}: {}", row.name),
                gross(row).to_string(),
                net(row).to_string(),
                if number == 0 { String::new() } else { decimal(hundredths) },
                if is_ours { decimal(TARGET) } else { String::new() },
                if is_ours { met.to_owned() } else { String::new() },
            ]);
        }
        text += &table::lines(&lines);
        text.push('\n');
    }
    text + &format!("least of {TURNS} turns of {SYNS} SYNs; net of what sending them costs\n")
}
