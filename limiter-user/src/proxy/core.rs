//! What one core has to itself: policy snapshot, bans, connections, upstream pools, report.
//!
//! Changed only by messages from the conductor ([`ToCore`]) and by the requests of this core, so
//! nothing here is locked. Shared between cores are only limits and connection counts.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    runtime::LocalOptions,
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::{
    access_log::{AccessLog, Writer},
    clients::ClientConnections,
    compiled::Compiled,
    compiled_listener::{Listener, Listeners},
    listener::{self, Listening},
    overload::Overload,
    peers::Peers,
    recent::Recent,
    registry::Registry,
    report::{Batch, CoreCounters, Report},
    shared_store::StoreLine,
    stage::{
        bans::{self, Bans},
        request_id::take_or_make,
    },
    tokens::Tokens,
    transport::Socket,
    upstream::{Pool, Pools},
};
use crate::{
    clock,
    limits::{AddressKey, Key},
    link::HttpBan,
    policy::{http::ErrorShape, listener::ListenAddress},
    store::Line,
};

/// How often deadlines are looked at while connections are open: their precision.
pub(super) const SWEEP: Duration = Duration::from_millis(100);

/// Most sockets of a core that are kept open for the only answer they get to arrive.
const MAX_PARTING: usize = 128;

/// Listening sockets, shared by all cores.
pub(super) type Sockets = Arc<Vec<(ListenAddress, OwnedFd)>>;

/// From the conductor to a core.
#[derive(Clone, Debug)]
pub(super) enum ToCore {
    /// Accept from these, in place of those before.
    Listeners(Sockets),
    /// Act on this policy; acknowledged when it is in force.
    Policy(Arc<Compiled>, Listeners, mpsc::Sender<()>),
    /// Replace all bans.
    Bans(Arc<Vec<HttpBan>>),
    /// Add or replace bans.
    AddBans(Arc<Vec<HttpBan>>),
    /// End connections of these peers.
    Close(Arc<Peers>),
    /// Stop accepting, finish, return.
    Drain,
}

/// What a core is made with.
#[derive(Debug)]
pub(super) struct CoreSetup {
    pub(super) messages: mpsc::Receiver<ToCore>,
    pub(super) batches: mpsc::Sender<Batch>,
    pub(super) counters: Arc<CoreCounters>,
    /// Of every core.
    pub(super) all_counters: Arc<[Arc<CoreCounters>]>,
    pub(super) clients: Arc<ClientConnections>,
    pub(super) access_log: Writer,
    pub(super) overload: Arc<Overload>,
    pub(super) seed: u64,
    /// From 0.
    pub(super) number: usize,
}

/// A policy and this core's connections to its upstreams.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) policy: Arc<Compiled>,
    listeners: Listeners,
    /// In the order of the policy's upstreams.
    pub(super) pools: Vec<Rc<Pool>>,
    /// To where limits are counted, if not here.
    pub(super) store: Option<Rc<Line>>,
}

impl InForce {
    /// What is in force for connections to `address`.
    pub(super) fn listener(&self, address: &ListenAddress) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.address == *address)
    }
}

/// One core.
#[derive(Debug)]
pub(super) struct Core {
    in_force: RefCell<Option<Rc<InForce>>>,
    pools: Pools,
    store: RefCell<StoreLine>,
    number: usize,
    pub(super) bans: RefCell<Bans>,
    pub(super) connections: Registry,
    pub(super) clients: Arc<ClientConnections>,
    pub(super) counters: Arc<CoreCounters>,
    pub(super) overload: Arc<Overload>,
    all_counters: Arc<[Arc<CoreCounters>]>,
    pub(super) report: Report,
    pub(super) access_log: AccessLog,
    pub(super) authenticated: Recent,
    /// Verified before.
    pub(super) tokens: Tokens,
    /// Wakes the sweeper when there is a connection again.
    pub(super) opened: Notify,
    random: Cell<u64>,
    /// Of request ids.
    room: RefCell<BytesMut>,
    /// Sockets that were answered and refused, and are not closed yet.
    parting: Cell<usize>,
}

/// Runs a core on this thread until it has drained.
pub(super) fn run(setup: CoreSetup) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let core = Rc::new(Core {
            in_force: RefCell::new(None),
            pools: Pools::new(setup.number),
            store: RefCell::default(),
            number: setup.number,
            bans: RefCell::default(),
            connections: Registry::default(),
            clients: setup.clients,
            counters: setup.counters,
            overload: setup.overload,
            all_counters: setup.all_counters,
            report: Report::new(setup.batches),
            access_log: AccessLog::new(setup.access_log),
            authenticated: Recent::default(),
            tokens: Tokens::default(),
            opened: Notify::new(),
            random: Cell::new(setup.seed | 1),
            room: RefCell::default(),
            parting: Cell::new(0),
        });
        let flusher = Rc::clone(&core);
        tokio::task::spawn_local(async move { flusher.report.flush().await });
        let logger = Rc::clone(&core);
        tokio::task::spawn_local(async move { logger.access_log.flush().await });
        tokio::task::spawn_local(sweep(Rc::clone(&core)));
        serve(&core, setup.messages).await;
        core.report.flush_now();
        core.access_log.flush_now();
    });
    Ok(())
}

/// Follows the conductor's messages until it says to drain, or is gone.
async fn serve(core: &Rc<Core>, mut messages: mpsc::Receiver<ToCore>) {
    let mut sockets: Option<Sockets> = None;
    let mut accepting: Vec<JoinHandle<()>> = Vec::new();
    while let Some(message) = messages.recv().await {
        match message {
            ToCore::Listeners(listeners) => {
                stop(&mut accepting);
                sockets = Some(listeners);
            }
            ToCore::Policy(policy, listeners, acknowledge) => {
                let pools = core.pools.select(&policy.upstreams);
                let seed = core.random_word();
                let store =
                    core.store.borrow_mut().select(policy.store.as_ref(), core.number, seed);
                let in_force = InForce { policy, listeners, pools, store };
                core.in_force.replace(Some(Rc::new(in_force)));
                if accepting.is_empty() {
                    accepting = start(core, sockets.as_deref());
                }
                // The conductor waits for as many as there are cores.
                if acknowledge.send(()).await.is_err() {
                    log::error!("nobody waits for a policy to be in force");
                }
                continue;
            }
            ToCore::Bans(bans) => {
                core.bans.borrow_mut().replace(&bans, clock::monotonic_ns());
                core.close_banned_tunnels();
            }
            ToCore::AddBans(bans) => {
                let now_ns = clock::monotonic_ns();
                bans.iter().for_each(|ban| core.bans.borrow_mut().add(*ban, now_ns));
                core.close_banned_tunnels();
            }
            ToCore::Close(peers) => core.connections.close(&peers),
            ToCore::Drain => break,
        }
        if accepting.is_empty() && core.in_force.borrow().is_some() {
            accepting = start(core, sockets.as_deref());
        }
    }
    stop(&mut accepting);
    // Listening sockets are gone here: what waits in their queues is another process's.
    drop(sockets);
    let limit = core.policy().map_or(Duration::ZERO, |in_force| in_force.policy.timeouts.drain);
    core.connections.drain();
    let drained = tokio::time::timeout(limit, core.connections.emptied()).await;
    if drained.is_err() {
        core.connections.close_all();
        tokio::task::yield_now().await;
    }
}

fn start(core: &Rc<Core>, sockets: Option<&Vec<(ListenAddress, OwnedFd)>>) -> Vec<JoinHandle<()>> {
    sockets
        .into_iter()
        .flatten()
        .filter_map(|(address, socket)| match socket.try_clone().and_then(Listening::new) {
            Ok(socket) => {
                let accepting = listener::accept(Rc::clone(core), address.clone(), socket);
                Some(tokio::task::spawn_local(accepting))
            }
            Err(error) => {
                log::error!("cannot accept from a listening socket: {error}");
                None
            }
        })
        .collect()
}

fn stop(accepting: &mut Vec<JoinHandle<()>>) {
    for task in accepting.drain(..) {
        task.abort();
    }
}

/// Looks at deadlines while connections are open, so that no request needs a timer of its own.
async fn sweep(core: Rc<Core>) {
    loop {
        while core.connections.is_empty() {
            core.counters.beat.rest();
            core.opened.notified().await;
        }
        core.counters.beat.now(clock::coarse_monotonic_ns(), SWEEP);
        tokio::time::sleep(SWEEP).await;
        let now_ns = clock::coarse_monotonic_ns();
        core.connections.expire(now_ns, core.is_crowded());
        core.pools.prune(now_ns);
    }
}

impl Core {
    /// The policy in force; `None` before the first.
    /// How refusals are worded, also of what is no request yet.
    pub(super) fn error_shape(&self) -> ErrorShape {
        let in_force = self.in_force.borrow();
        in_force.as_ref().map_or(ErrorShape::Problem, |in_force| in_force.policy.error_shape)
    }

    pub(super) fn policy(&self) -> Option<Rc<InForce>> {
        self.in_force.borrow().clone()
    }

    /// Whether there is too much to do for a request of this client, unless it is known.
    pub(super) fn sheds_request(&self, policy: &Compiled, client: AddressKey, now_ns: u64) -> bool {
        self.overload.is_on()
            && !policy.known.has_any(Key::address(client), now_ns)
            && self.overload.refuses_request(self.random_word())
    }

    /// As [`Self::sheds_request`] for a connection.
    pub(super) fn sheds_connection(&self, policy: &Compiled, client: AddressKey) -> bool {
        self.overload.is_on()
            && !policy.known.has_any(Key::address(client), clock::coarse_monotonic_ns())
            && self.overload.refuses_connection(self.random_word())
    }

    /// Other connections meet their ban with their next request.
    fn close_banned_tunnels(&self) {
        let (bans, now_ns) = (self.bans.borrow(), clock::monotonic_ns());
        self.connections.close_tunnels(|client| bans::check(&bans, client, now_ns).is_err());
    }

    /// An id for what is answered without a request.
    pub(super) fn new_request_id(&self) -> http::HeaderValue {
        self.request_id(&http::HeaderMap::new(), clock::coarse_unix_ns())
    }

    /// The id of a request.
    pub(super) fn request_id(&self, headers: &http::HeaderMap, unix_ns: u64) -> http::HeaderValue {
        take_or_make(headers, unix_ns, || self.random_bytes(), &self.room)
    }

    /// Sends the only answer that a connection gets, as much as the socket takes, and closes it so
    /// that the answer arrives. Under a flood most are closed at once.
    pub(super) fn part(self: &Rc<Self>, socket: Socket, answer: &[u8]) {
        socket.send_now(answer);
        if self.parting.get() < MAX_PARTING {
            self.parting.set(self.parting.get() + 1);
            let core = Rc::clone(self);
            tokio::task::spawn_local(async move {
                socket.linger().await;
                core.parting.set(core.parting.get() - 1);
            });
        }
    }

    /// Whether more than `most` requests are in flight. A core with no more than its share of them
    /// does not look at the others, so that for a moment there may be up to twice as many.
    pub(super) fn is_full(&self, most: usize) -> bool {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let cores = u64::try_from(self.all_counters.len()).unwrap_or(u64::MAX).max(1);
        self.counters.in_flight() > most / cores
            && self.all_counters.iter().map(|core| core.in_flight()).sum::<u64>() > most
    }

    /// Whether there is no room for those who may have gone.
    fn is_crowded(&self) -> bool {
        let most = |in_force: Rc<InForce>| in_force.policy.bounds.max_requests;
        let full = |most: usize| self.is_full(most.saturating_sub(1));
        self.overload.is_on() || self.policy().map(most).is_some_and(full)
    }

    /// Random bytes for request ids: unpredictable seed, not a secret.
    pub(super) fn random_bytes(&self) -> [u8; 10] {
        let (high, low) = (self.random_word(), self.random_word());
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&high.to_le_bytes());
        bytes[8..].copy_from_slice(&low.to_le_bytes()[..2]);
        bytes
    }

    /// `SplitMix64`.
    pub(super) fn random_word(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether a success of this client is worth telling: the first in a minute.
    pub(super) fn is_news(&self, client: IpAddr, now_ns: u64) -> bool {
        self.authenticated.is_news(client, now_ns)
    }
}
