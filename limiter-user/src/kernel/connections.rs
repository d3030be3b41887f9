//! Connections that peers opened, as the TCP stack tells of them: a tracepoint program counts each
//! transition, and a thread of its own compares the counts with the stack's list of sockets now
//! and then, and ends connections of banned sources.
//!
//! The program is attached twice, by links that outlive the agent (see limiter-ebpf). A new agent
//! attaches its own before it lets go of the earlier ones: what both see counts once.

mod audit;
mod load;
mod worker;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use aya::maps::{Array, HashMap, MapData};
use ipnet::IpNet;
use limiter_common::{
    address::Address,
    connection::{count_in, losses},
    maps::{self, MAX_CONNECTIONS},
};

use self::worker::Worker;
use super::{Kernel, KernelError, pins::Pins, sock_diag::SockDiag};
use crate::policy::Mode;

/// Bans whose connections have not been looked for yet, at most.
const PENDING: usize = 65_536;

/// Below this many connections their records are counted at once, else as of the last audit.
const COUNTED_AT_ONCE: u64 = 4_096;

/// Open connections, and how well they are counted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectionState {
    /// Connections that peers opened and that are open, by the count.
    pub open: u64,
    /// Sockets in the table.
    pub tracked: u64,
    /// How many fit.
    pub capacity: u64,
    /// Counts and records that were found wrong and put right since the agent started.
    pub drift_corrected: u64,
    /// Connections that were not counted because a table was full.
    pub untracked: u64,
    /// Connections that bans ended since the agent started.
    pub ended_by_bans: u64,
    /// Bans whose connections were not looked for, because too many came at once.
    pub bans_skipped: u64,
    /// Why counts cannot be compared with the stack, or connections not be ended.
    pub problem: Option<String>,
}

/// What the thread found out.
#[derive(Debug, Default)]
struct Shared {
    tracked: u64,
    drift_corrected: u64,
    ended_by_bans: u64,
    bans_skipped: u64,
    audit_problem: Option<String>,
    end_problem: Option<String>,
}

/// The counts, and the thread that looks after them. Both end with this; the programs do not.
pub(super) struct Connections {
    sockets: HashMap<MapData, u64, [u64; load::RECORD_WORDS]>,
    totals: Array<MapData, u64>,
    losses: Array<MapData, u64>,
    shared: Arc<Mutex<Shared>>,
    bans: SyncSender<IpNet>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    /// Attaches the programs and counts what is open already. The settings are in force.
    pub(super) fn start(pins: &Pins) -> Result<Self, KernelError> {
        let diag = SockDiag::open()
            .map_err(|error| KernelError::system("asking the stack for its sockets", &error))?;
        let object = load::attach(pins, &diag)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut worker = Worker::new(pins, object, diag, Arc::clone(&shared))?;
        worker.seed();
        let (bans, requests) = sync_channel(PENDING);
        thread::Builder::new()
            .name("connections".to_owned())
            .spawn(move || worker.run(&requests))
            .map_err(|error| KernelError::system("starting a thread", &error))?;
        Ok(Self {
            sockets: pins.map(maps::SOCKETS)?,
            totals: pins.map(maps::OPEN_TOTALS)?,
            losses: pins.map(maps::OPEN_LOSSES)?,
            shared,
            bans,
        })
    }

    /// Ends what these sources have open, soon.
    pub(super) fn end(&self, sources: IpNet) {
        if self.bans.try_send(sources).is_err() {
            lock(&self.shared).bans_skipped += 1;
        }
    }

    pub(super) fn state(&self) -> ConnectionState {
        let word = |map: &Array<MapData, u64>, index: u32| map.get(&index, 0).unwrap_or(0);
        let open = count_in(word(&self.totals, 0));
        let counted = (open < COUNTED_AT_ONCE)
            .then(|| self.sockets.keys().take(2 * MAX_CONNECTIONS as usize).flatten().count());
        let shared = lock(&self.shared);
        let problems = [&shared.audit_problem, &shared.end_problem];
        ConnectionState {
            open,
            tracked: counted
                .and_then(|counted| u64::try_from(counted).ok())
                .unwrap_or(shared.tracked),
            capacity: u64::from(MAX_CONNECTIONS),
            drift_corrected: shared.drift_corrected,
            untracked: word(&self.losses, losses::FULL),
            ended_by_bans: shared.ended_by_bans,
            bans_skipped: shared.bans_skipped,
            problem: problems.into_iter().flatten().next().cloned(),
        }
    }
}

impl Kernel {
    /// Ends the TCP connections that these sources opened, shortly after this returns: those of a
    /// banned source would otherwise linger. Spares failsafe ports and what this host opened; ends
    /// nothing in monitor mode.
    pub fn end_connections(&self, sources: IpNet) {
        if let (Ok(connections), Mode::Enforce) = (&self.connections, self.policy.mode) {
            connections.end(sources);
        }
    }

    /// Open connections that peers opened; or why they are not counted.
    pub fn connections(&self) -> Result<ConnectionState, &str> {
        self.connections.as_ref().map(Connections::state).map_err(String::as_str)
    }

    /// How many TCP connections this address's source opened and has open; 0 where they are not
    /// counted.
    pub fn connections_of(&self, address: IpAddr) -> u64 {
        self.maps.active_settings().map_or(0, |settings| {
            self.maps.open_connections(Address::from(address).source_key(settings.masks))
        })
    }
}

/// Numbers stay numbers, also if a thread panicked while it held them.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
