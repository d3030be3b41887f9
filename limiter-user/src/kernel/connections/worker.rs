//! The thread beside the agent: compares counts with the stack, ends connections of banned sources.
//! Both take time in proportion to the open connections, which the agent's loop does not have.

use std::{
    collections::{HashMap as Map, HashSet},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use aya::{
    Ebpf, TestRun,
    maps::{Array, HashMap, MapData, MapError},
    programs::{TestRunOptions, Xdp},
};
use ipnet::IpNet;
use limiter_common::{
    address::Address,
    connection::{Connection, Correction, TOTALS},
    maps::{self, MAX_CONNECTIONS, control},
    ports::{PORT_WORDS, PortFacts, port_word},
    settings::Settings,
};

use super::{
    Shared,
    audit::{Count, Findings, Look, Seen},
    load::{FIX, RECORD_WORDS},
    lock,
};
use crate::{
    clock,
    kernel::{
        KernelError,
        pins::Pins,
        plain::Plain,
        sock_diag::{Dump, SockDiag, Socket},
    },
};

/// How often counts are compared with the stack.
const AUDIT_EVERY: Duration = Duration::from_secs(10);

/// Between two looks that must agree.
const PAUSE: Duration = Duration::from_millis(50);

/// Bans are gathered so long, so that one list of sockets serves many.
const GATHER: Duration = Duration::from_millis(100);

/// `XDP_PASS`: the correction was carried out.
const DONE: u32 = 2;

pub(super) struct Worker {
    control: Array<MapData, [u64; control::WORDS]>,
    settings: Array<MapData, Plain<Settings>>,
    ports: Array<MapData, u64>,
    sockets: HashMap<MapData, u64, [u64; RECORD_WORDS]>,
    counts: HashMap<MapData, u64, u64>,
    totals: Array<MapData, u64>,
    object: Ebpf,
    diag: SockDiag,
    shared: Arc<Mutex<Shared>>,
}

impl Worker {
    pub(super) fn new(
        pins: &Pins,
        object: Ebpf,
        diag: SockDiag,
        shared: Arc<Mutex<Shared>>,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            control: pins.map(maps::CONTROL)?,
            settings: pins.map(maps::SETTINGS)?,
            ports: pins.map(maps::PORTS)?,
            sockets: pins.map(maps::SOCKETS)?,
            counts: pins.map(maps::CONNECTIONS)?,
            totals: pins.map(maps::OPEN_TOTALS)?,
            object,
            diag,
            shared,
        })
    }

    /// Counts what was open before the programs were attached.
    pub(super) fn seed(&mut self) {
        self.audit(Duration::ZERO);
    }

    /// Until the agent lets go of its end.
    pub(super) fn run(mut self, bans: &Receiver<IpNet>) {
        let mut next_audit_ns = clock::monotonic_ns() + nanoseconds(AUDIT_EVERY);
        loop {
            let left_ns = next_audit_ns.saturating_sub(clock::monotonic_ns());
            match bans.recv_timeout(Duration::from_nanos(left_ns)) {
                Ok(first) => {
                    let banned: HashSet<IpNet> =
                        std::iter::once(first).chain(bans.try_iter()).collect();
                    self.end(&banned);
                    thread::sleep(GATHER);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.audit(PAUSE);
                    next_audit_ns = clock::monotonic_ns() + nanoseconds(AUDIT_EVERY);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn audit(&mut self, pause: Duration) {
        let problem = self.compare(pause).err();
        if let Some(problem) = &problem {
            log::warn!("connections cannot be compared with the stack: {problem}");
        }
        let sentence = |error| format!("open connections cannot be checked: {error}");
        lock(&self.shared).audit_problem = problem.map(sentence);
    }

    fn compare(&mut self, pause: Duration) -> Result<(), KernelError> {
        let first = Findings::of(&self.look()?);
        if first.is_empty() {
            return Ok(());
        }
        thread::sleep(pause);
        let agreed = first.agreed(&Findings::of(&self.look()?));
        if agreed.is_empty() {
            return Ok(());
        }
        let drift = agreed.drift();
        if drift > 0 {
            log::warn!(
                "open connections: {} records, {} counts and {} totals were wrong",
                agreed.stale.len(),
                agreed.counts.len(),
                agreed.totals.len(),
            );
        }
        let mut opened = Vec::new();
        for correction in agreed.corrections() {
            if self.correct(correction)?
                && let Correction::Open(cookie, _) = correction
            {
                opened.push(cookie);
            }
        }
        lock(&self.shared).drift_corrected += u64::try_from(drift).unwrap_or(u64::MAX);
        if !opened.is_empty() {
            // One that closed since the last look was recorded after its end. Any that is still
            // there is counted out by the program, whenever it ends.
            let stack = self.dump()?.connections;
            for cookie in opened.into_iter().filter(|cookie| !stack.contains_key(cookie)) {
                self.correct(Correction::Close(cookie))?;
            }
        }
        Ok(())
    }

    /// Reads all tables; the stack last, so that a connection in none of them is gone.
    fn look(&mut self) -> Result<Look, KernelError> {
        let policy = self.policy()?;
        let (counts_before, totals_before) = (self.counts()?, self.totals());
        let recorded = bounded(&self.sockets)?
            .into_iter()
            .map(|(cookie, [source, pair, service])| (cookie, Connection { source, pair, service }))
            .collect::<Map<_, _>>();
        let (counts_after, totals_after) = (self.counts()?, self.totals());
        let dump = self.dump()?;
        lock(&self.shared).tracked = u64::try_from(recorded.len()).unwrap_or(u64::MAX);
        let mut counts: Map<u64, Count> = counts_before
            .into_iter()
            .map(|(key, before)| (key, Count { before, after: 0 }))
            .collect();
        for (key, after) in counts_after {
            counts.entry(key).or_default().after = after;
        }
        let mut totals = [Count::default(); TOTALS as usize];
        for (total, (before, after)) in
            totals.iter_mut().zip(totals_before.into_iter().zip(totals_after))
        {
            *total = Count { before, after };
        }
        let stack = dump
            .connections
            .iter()
            .map(|(cookie, socket)| {
                let connection = policy.describe(socket);
                (*cookie, Seen { connection, passive: dump.is_passive(socket) })
            })
            .collect();
        Ok(Look { recorded, counts, totals, stack })
    }

    /// What the policy in force says of local ports and sources.
    fn policy(&self) -> Result<InForce, KernelError> {
        let failed = |error: &MapError| KernelError::system("reading the policy in force", error);
        let words = self.control.get(&0, 0).map_err(|error| failed(&error))?;
        let active = u32::from(words.get(control::ACTIVE).is_some_and(|word| *word != 0));
        let Plain(settings) = self.settings.get(&active, 0).map_err(|error| failed(&error))?;
        let ports = (0..=port_word(false, u16::MAX))
            .map(|word| self.ports.get(&(active * PORT_WORDS + word), 0))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(&error))?;
        Ok(InForce { settings, ports })
    }

    fn dump(&mut self) -> Result<Dump, KernelError> {
        self.diag.dump().map_err(|error| KernelError::system("listing the stack's sockets", &error))
    }

    fn counts(&self) -> Result<Vec<(u64, u64)>, KernelError> {
        bounded(&self.counts)
    }

    fn totals(&self) -> Vec<u64> {
        (0..TOTALS).map(|index| self.totals.get(&index, 0).unwrap_or(0)).collect()
    }

    /// Has the kernel program carry a correction out; whether it did.
    fn correct(&self, correction: Correction) -> Result<bool, KernelError> {
        let program: &Xdp = self
            .object
            .program(FIX)
            .ok_or_else(|| KernelError::System(format!("the object has no program {FIX}")))?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| KernelError::system(FIX, &error))?;
        let frame = correction.to_words().map(u64::to_ne_bytes).concat();
        program
            .test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() })
            .map(|result| result.return_value == DONE)
            .map_err(|error| KernelError::system("correcting a count", &error))
    }

    /// Ends the connections that these sources opened, but those to failsafe ports.
    fn end(&mut self, banned: &HashSet<IpNet>) {
        let ended = self.try_end(banned);
        let mut shared = lock(&self.shared);
        match ended {
            Ok(count) => {
                shared.ended_by_bans += count;
                shared.end_problem = None;
            }
            Err(error) => {
                log::warn!("connections of banned sources cannot be ended: {error}");
                let sentence =
                    format!("connections of banned sources are not ended, only starved: {error}");
                shared.end_problem = Some(sentence);
            }
        }
    }

    fn try_end(&mut self, banned: &HashSet<IpNet>) -> Result<u64, KernelError> {
        let policy = self.policy()?;
        let dump = self.dump()?;
        let failed = |error: io::Error| KernelError::system("ending a connection", &error);
        let mut count = 0;
        for (cookie, socket) in &dump.connections {
            // Who opened it is recorded; the listener says it of whatever began unseen.
            if hits(banned, socket.remote)
                && !policy.port(socket.local_port).is_failsafe()
                && (self.sockets.get(cookie, 0).is_ok() || dump.is_passive(socket))
                && self.diag.destroy(socket.id).map_err(failed)?
            {
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The policy, as the kernel program sees it.
struct InForce {
    settings: Settings,
    /// Words of TCP ports.
    ports: Vec<u64>,
}

impl InForce {
    fn port(&self, port: u16) -> PortFacts {
        let index = usize::try_from(port_word(false, port)).unwrap_or_default();
        PortFacts::in_word(self.ports.get(index).copied().unwrap_or_default(), port)
    }

    /// How the kernel program counts this connection.
    fn describe(&self, socket: &Socket) -> Connection {
        let source = socket.remote.source_key(self.settings.masks);
        Connection::new(source, self.port(socket.local_port).service(), self.settings.hash_seed)
    }
}

/// Whether one of these prefixes holds the address.
fn hits(prefixes: &HashSet<IpNet>, address: Address) -> bool {
    let address = IpNet::from(IpAddr::from(address));
    std::iter::successors(Some(address), IpNet::supernet)
        .any(|wider| prefixes.contains(&wider.trunc()))
}

/// What is in a table that changes meanwhile. An entry that is removed under the reader makes the
/// kernel begin anew, so that it is not read for ever.
fn bounded<V: aya::Pod>(table: &HashMap<MapData, u64, V>) -> Result<Vec<(u64, V)>, KernelError> {
    let mut entries: Map<u64, V> = Map::new();
    for (reads, entry) in table.iter().enumerate() {
        let (key, value) =
            entry.map_err(|error| KernelError::system("reading the connections", &error))?;
        entries.insert(key, value);
        if reads > 4 * MAX_CONNECTIONS as usize {
            return Err(KernelError::System("the connections change too fast to be read".into()));
        }
    }
    Ok(entries.into_iter().collect())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_any_length_hit_what_they_hold() {
        let prefixes: HashSet<IpNet> =
            ["192.0.2.1/32", "198.51.100.0/24", "2001:db8::/64", "2001:db8:1::/48"]
                .map(|text| text.parse().unwrap())
                .into();
        let hit = |text: &str| hits(&prefixes, text.parse::<IpAddr>().unwrap().into());
        for address in ["192.0.2.1", "198.51.100.9", "2001:db8::7", "2001:db8:1:2::3"] {
            assert!(hit(address), "{address}");
        }
        for address in ["192.0.2.2", "198.51.101.9", "2001:db8:0:1::7", "2001:db8:2::3", "::1"] {
            assert!(!hit(address), "{address}");
        }
    }
}
