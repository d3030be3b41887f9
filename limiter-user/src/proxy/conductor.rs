//! The proxy's main thread: between the agent and the cores.
//!
//! In: the agent's messages; out: messages to every core, and what they report to the agent. When
//! the agent dies the cores go on with what they have; a later agent finds the rendezvous socket.
//! Without that socket, or without listeners, there is nothing to go on for: the proxy ends.

use std::{io, os::fd::OwnedFd, process::ExitCode, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    access_log::Writer,
    compiled::Compiled,
    compiled_listener,
    core::ToCore,
    cores::Cores,
    lasting::Lasting,
    meeting::{finished, greet, meet, receive, rendezvous},
    outbox::Outbox,
    overload::{self, Watchman},
    peers::Peers,
    report::Batch,
    shared_store::Stores,
    tls::TlsConfigs,
    upstream::Directory,
};
use crate::{
    clock,
    limits::arena::Arena,
    link::{
        FromProxy, ProxyCounters, ServerNotice, StoreNotice, ToProxy,
        codec::{Link, LinkReceiver},
    },
    policy::{HttpPolicy, listener::ListenAddress},
};

/// How often totals are sent, if they changed.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

/// Batches that may wait for the link.
const BATCH_QUEUE: usize = 256;

/// Everything the main thread holds.
#[derive(Debug)]
pub(super) struct Conductor {
    cores: Cores,
    watchman: Watchman,
    lasting: Lasting,
    /// What limits are counted in, for the next proxy.
    memory: Option<OwnedFd>,
    tls: TlsConfigs,
    sockets: Arc<Vec<(ListenAddress, OwnedFd)>>,
    rendezvous: Option<Rc<UnixListener>>,
    /// Waits for a later agent while there is none.
    meeting: Option<tokio::task::JoinHandle<Link>>,
    /// The receiving half while an agent is there; the sending half is the outbox's.
    agent: Option<LinkReceiver>,
    outbox: Option<Outbox>,
    /// Observations that no agent was there for, or that found no room on the way.
    lost: u64,
    last_counters: ProxyCounters,
    access_log: Writer,
}

#[derive(Debug, Eq, PartialEq)]
enum Next {
    GoOn,
    Drain,
}

/// Runs the proxy on `link` until it is told to drain.
pub(super) async fn conduct(link: Link, cores: usize) -> io::Result<ExitCode> {
    let (batches, mut incoming) = mpsc::channel(BATCH_QUEUE);
    let (access_log, access_log_thread) = Writer::start()?;
    let watchman = Watchman::default();
    let (upstreams, mut notices) = Directory::new(cores.max(1));
    let (stores, mut store_notices) = Stores::new();
    let mut conductor = Conductor {
        cores: Cores::start(cores, &batches, &watchman, &access_log)?,
        watchman,
        lasting: Lasting::new(upstreams, stores),
        memory: None,
        tls: TlsConfigs::default(),
        sockets: Arc::default(),
        rendezvous: None,
        meeting: None,
        agent: None,
        outbox: None,
        lost: 0,
        last_counters: ProxyCounters::default(),
        access_log,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    ignore(SignalKind::interrupt())?;
    ignore(SignalKind::hangup())?;
    match greet(link).await {
        Ok((link, hello)) if hello.is_compatible() => conductor.attach(link),
        Ok((_, hello)) => {
            log::error!("the agent speaks version {} of the link", hello.protocol);
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => {
            log::error!("no hello from the agent: {error}");
            return Ok(ExitCode::FAILURE);
        }
    }
    let notices = (&mut notices, &mut store_notices);
    conductor.run(&mut incoming, notices, &mut terminate).await;
    let access_log = conductor.access_log.clone();
    conductor.drain(&mut incoming).await;
    access_log.finish(access_log_thread).await;
    Ok(ExitCode::SUCCESS)
}

/// The terminal's signals reach the whole group; the agent decides what they mean.
fn ignore(kind: SignalKind) -> io::Result<()> {
    // Once tokio handles a signal its default action is gone, also when nobody listens.
    signal(kind).map(drop)
}

impl Conductor {
    /// Goes on with an agent that said hello.
    fn attach(&mut self, link: Link) {
        let (sender, receiver) = link.split();
        self.agent = Some(receiver);
        self.outbox = Some(Outbox::start(sender));
        if self.lost > 0 {
            self.report(Batch::default());
        }
    }

    async fn run(
        &mut self,
        batches: &mut mpsc::Receiver<Batch>,
        (notices, store_notices): (
            &mut mpsc::Receiver<ServerNotice>,
            &mut mpsc::Receiver<StoreNotice>,
        ),
        terminate: &mut Signal,
    ) {
        let mut tick = tokio::time::interval(COUNTERS_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(overload::LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.agent.is_none() && !self.may_be_found() {
                log::error!("the agent went before the proxy could serve without it; it ends");
                return;
            }
            if self.agent.is_none() && self.meeting.is_none() {
                let socket = self.rendezvous.clone();
                self.meeting = socket.map(|socket| tokio::task::spawn_local(meet(socket)));
            }
            tokio::select! {
                received = receive(self.agent.as_mut()) => match received {
                    Ok(Some((message, descriptors))) => {
                        if self.act(message, descriptors).await == Next::Drain {
                            return;
                        }
                    }
                    Ok(None) => self.detach("the agent is gone"),
                    Err(error) => self.detach(&format!("the link broke: {error}")),
                },
                met = finished(self.meeting.as_mut()) => {
                    self.meeting = None;
                    if let Some(link) = met {
                        self.attach(link);
                    }
                }
                Some(batch) = batches.recv() => self.report(batch),
                Some(notice) = notices.recv() => self.send(FromProxy::Server(notice), Vec::new()),
                Some(notice) = store_notices.recv() => {
                    // What is counted says the same from now on.
                    self.count();
                    self.send(FromProxy::Store(notice), Vec::new());
                }
                _ = tick.tick() => {
                    self.count();
                    self.watchman.look_at_memory();
                }
                _ = look.tick() => self.judge(),
                _ = terminate.recv() => return,
            }
        }
    }

    /// Whether a later agent can find this proxy, and would find it serving.
    fn may_be_found(&self) -> bool {
        self.rendezvous.is_some() && !self.sockets.is_empty()
    }

    fn detach(&mut self, why: &str) {
        log::warn!("{why}");
        self.agent = None;
        self.outbox = None;
        self.last_counters = ProxyCounters::default();
    }

    async fn act(&mut self, message: ToProxy, descriptors: Vec<OwnedFd>) -> Next {
        match message {
            ToProxy::Hello(_) => {}
            ToProxy::Listeners(addresses) if addresses.len() == descriptors.len() => {
                self.sockets = Arc::new(addresses.into_iter().zip(descriptors).collect());
                self.cores.tell(&ToCore::Listeners(Arc::clone(&self.sockets))).await;
            }
            ToProxy::Listeners(addresses) => log::error!(
                "{} listening sockets for {} addresses",
                descriptors.len(),
                addresses.len()
            ),
            ToProxy::Rendezvous => match descriptors.into_iter().next().map(rendezvous) {
                Some(Ok(listener)) => self.rendezvous = Some(Rc::new(listener)),
                Some(Err(error)) => log::error!("rendezvous socket: {error}"),
                None => log::error!("no rendezvous socket beside its frame"),
            },
            ToProxy::Policy { generation, policy } => self.apply(generation, &policy).await,
            ToProxy::HttpBans(bans) => self.cores.tell(&ToCore::Bans(Arc::new(bans))).await,
            ToProxy::AddHttpBans(bans) => self.cores.tell(&ToCore::AddBans(Arc::new(bans))).await,
            ToProxy::CloseConnections(prefixes) => {
                let peers = prefixes.into_iter().collect::<Peers>();
                self.cores.tell(&ToCore::Close(Arc::new(peers))).await;
            }
            ToProxy::LimiterMemory => self.share_limits(descriptors),
            ToProxy::HandOver => self.hand_over(),
            ToProxy::Drain => return Next::Drain,
            ToProxy::AccessLog => self.access_log.set_file(descriptors.into_iter().next()),
        }
        Next::GoOn
    }

    /// Puts a policy in force on every core, then says so. One that does not compile changes
    /// nothing and is not acknowledged.
    async fn apply(&mut self, generation: u64, policy: &HttpPolicy) {
        // Listeners first: they change nothing that is shared with the policy in force.
        let compiled =
            compiled_listener::compile(&policy.listeners, &mut self.tls).and_then(|listeners| {
                let compiled = Compiled::new(policy, &mut self.lasting)?;
                Ok((compiled, listeners))
            });
        let (compiled, listeners) = match compiled {
            Ok((compiled, listeners)) => (Arc::new(compiled), listeners),
            Err(error) => {
                log::error!("policy {generation} is not applied: {error}");
                return;
            }
        };
        self.watchman.bounds = Some(policy.bounds);
        self.lasting.upstreams.watch_new();
        compiled.ask_issuers();
        let (acknowledge, mut acknowledged) = mpsc::channel(self.cores.count());
        self.cores.tell(&ToCore::Policy(compiled, listeners, acknowledge)).await;
        // The message above was the last holder besides the cores.
        let mut cores = 0;
        while acknowledged.recv().await.is_some() {
            cores += 1;
        }
        if cores == self.cores.count() {
            self.send(FromProxy::PolicyApplied { generation }, Vec::new());
        }
    }

    /// Counts in the agent's memory from the next policy on.
    fn share_limits(&mut self, descriptors: Vec<OwnedFd>) {
        let Some(memory) = descriptors.into_iter().next() else {
            log::error!("no limiter memory beside its frame");
            return;
        };
        match Arena::open(&memory) {
            Ok(arena) => {
                self.lasting.signed.share(Arc::clone(&arena));
                self.lasting.counters.share(arena);
                self.memory = Some(memory);
            }
            Err(error) => log::error!("limits end with this process: {error}"),
        }
    }

    fn hand_over(&mut self) {
        let copies: io::Result<Vec<OwnedFd>> = self
            .sockets
            .iter()
            .map(|(_, socket)| socket)
            .chain(&self.memory)
            .map(OwnedFd::try_clone)
            .collect();
        let addresses = self.sockets.iter().map(|(address, _)| address.clone()).collect();
        match copies {
            Ok(copies) => self.send(FromProxy::HandOver(addresses), copies),
            Err(error) => log::error!("cannot hand the listening sockets over: {error}"),
        }
    }

    fn send(&mut self, message: FromProxy, descriptors: Vec<OwnedFd>) {
        if let Some(outbox) = &self.outbox
            && !outbox.send(message, descriptors)
        {
            log::error!("the agent does not read; a message to it is lost");
        }
    }

    fn report(&mut self, batch: Batch) {
        let count = |batch: &Batch| {
            let told: u64 = batch.observations.iter().map(|o| u64::from(o.count)).sum();
            told + batch.lost
        };
        let all = count(&batch);
        let message = FromProxy::Observations {
            observations: batch.observations,
            lost: batch.lost + self.lost,
        };
        let sent = self.outbox.as_ref().is_some_and(|outbox| outbox.send(message, Vec::new()));
        self.lost = if sent { 0 } else { self.lost + all };
    }

    fn count(&mut self) {
        self.lasting.counters.sweep(clock::monotonic_ns());
        let totals = self.totals();
        if totals != self.last_counters && self.outbox.is_some() {
            self.last_counters = totals.clone();
            self.send(FromProxy::Counters(Box::new(totals)), Vec::new());
        }
    }

    fn totals(&self) -> ProxyCounters {
        let mut totals = self.cores.totals();
        (totals.limiter_entries, totals.limiter_full) = self.lasting.counters.usage();
        totals.servers = self.lasting.upstreams.counts();
        totals.store = self.lasting.stores.counts();
        totals.access_lost = self.access_log.lost();
        totals.signed = self.lasting.signed.count();
        totals
    }

    /// Whether there is more to do than can be done.
    fn judge(&mut self) {
        if let Some(news) = self.watchman.look(self.cores.counters()) {
            self.send(news, Vec::new());
        }
    }

    /// Lets every core finish, tells the last of it and ends.
    async fn drain(mut self, batches: &mut mpsc::Receiver<Batch>) {
        self.cores.tell(&ToCore::Drain).await;
        // What waits in the queues of sockets that nobody else holds is refused at once.
        self.sockets = Arc::default();
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while self.cores.is_running() {
            tokio::select! {
                Some(batch) = batches.recv() => self.report(batch),
                _ = poll.tick() => {}
            }
        }
        while let Ok(batch) = batches.try_recv() {
            self.report(batch);
        }
        let totals = self.totals();
        self.send(FromProxy::Counters(Box::new(totals)), Vec::new());
        self.cores.join();
        if let Some(outbox) = self.outbox.take() {
            outbox.finish().await;
        }
    }
}
