//! The agent: configuration, kernel half, bans, events, control socket, and the proxy it starts.
//!
//! In: the configuration, what the kernel and the proxy report, what the command line asks; out:
//! maps, bans, events. Root at first, then only the capabilities it needs. It never parses what a
//! peer sent: requests are the proxy's, packets the kernel's. None of its ends takes XDP off.

mod access_log;
mod backend;
mod bans;
mod book;
mod certificates;
mod cookies;
mod dropped;
mod escalation;
pub(crate) mod host;
mod interfaces;
mod journal;
mod limiter_memory;
mod list_changes;
mod lists;
mod notify;
mod observe;
mod outbox;
mod problems;
mod proxy_side;
mod reload;
mod rules;
mod safety;
mod shared_bans;
mod sockets;
mod start;
mod supervisor;
mod telling;
mod top;
mod upgrade;
mod upkeep;
mod view;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::LocalSet,
    time,
};

use self::{
    access_log::AccessLog,
    book::Book,
    certificates::CertificateFiles,
    cookies::Cookies,
    escalation::Escalation,
    host::host_facts,
    interfaces::{Watch, start_or_detach},
    lists::RuntimeLists,
    notify::Notifier,
    outbox::Outbox,
    problems::{Problem, Problems},
    proxy_side::ProxyOverload,
    reload::Trial,
    safety::Safety,
    shared_bans::SharedBans,
    supervisor::ProxySetup,
    upkeep::End,
};
use crate::{
    admin::{SOCKET_NAME, server::Server},
    cli::{UsageError, run::RunArgs},
    clock,
    config::Loaded,
    events::{aggregate::Aggregate, stream::EventStream},
    kernel::{Drops, Kernel, KernelError, ProgramNames},
    link::{ProxyCounters, ToProxy},
    policy::{Policy, listener::ListenAddress},
};

/// Build id of this binary.
pub(crate) const BUILD: &str = env!("LIMITER_BUILD_ID");

/// How long sinks may take to write what they hold when the agent ends.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);

/// Beyond the policy's drain time, until a proxy is ended with force.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// The same where nothing is to be waited for: time to tell the last sums.
const END_GRACE: Duration = Duration::from_millis(250);

/// The running agent. One thread, so that nothing of it is shared.
pub(crate) struct Agent {
    args: RunArgs,
    /// Where the next version of this program is put.
    program: PathBuf,
    notifier: Notifier,
    file: Option<PathBuf>,
    started_ns: u64,
    events: EventStream,
    to_proxy: mpsc::Sender<ToProxy>,
    outbox: Outbox,
    shared_bans: SharedBans,
    stopping: Cell<bool>,
    /// A message to the proxy found no room.
    proxy_missed: Cell<bool>,
    /// Lists changed in one half of the maps only.
    lists_lag: Cell<bool>,
    /// Whose turn it is to change policy or lists.
    changing: tokio::sync::Mutex<()>,
    inner: RefCell<Inner>,
}

/// What changes. Never borrowed across an await.
struct Inner {
    /// As configured.
    configured: Policy,
    /// What people put on its lists beside that.
    lists: RuntimeLists,
    /// What is known to be on disk of them.
    lists_on_disk: RuntimeLists,
    /// Both together: what is in force.
    policy: Policy,
    /// Rises with each policy.
    generation: u64,
    /// The generation that the proxy acts on.
    applied: u64,
    kernel: Option<Kernel>,
    drops: Option<Drops>,
    safety: Safety,
    escalation: Escalation,
    book: Book,
    /// Bans found at the start, and how long it took to have them in force.
    restored: (usize, Duration),
    /// Bans that found no room, by table.
    bans_refused: BTreeMap<&'static str, u64>,
    cookies: Cookies,
    aggregate: Aggregate,
    /// Who sends and who is dropped, per second, while somebody watches.
    top: top::Top,
    proxy_pid: Option<u32>,
    /// `CLOCK_MONOTONIC` ns.
    proxy_started_ns: u64,
    proxy_starts: u64,
    proxy_counters: ProxyCounters,
    overload: ProxyOverload,
    /// Observations that the proxy or its link lost.
    observations_lost: u64,
    problems: Problems,
    watch: Watch,
    certificates: CertificateFiles,
    /// A policy that is undone unless somebody confirms it.
    trial: Option<Trial>,
    access_log: AccessLog,
    /// What limits are counted in.
    limiter_memory: Option<Rc<OwnedFd>>,
}

/// `limiter run`: until a signal ends it.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode> {
    let loaded = start::load(args).map_err(|error| UsageError(error.to_string()))?;
    if args.check_only {
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything opens files, which would get the numbers of what was not passed.
    let passed = sockets::from_systemd();
    let program = upgrade::program();
    let lock = start::lock(&loaded.policy.agent)?;
    let user = start::proxy_user(loaded.policy.agent.user.as_deref())?;
    let prepared = match &loaded.policy.kernel {
        Some(_) => crate::kernel::prepare(&loaded.policy.agent.pins),
        None => Ok(ProgramNames::default()),
    };
    let pins_lock = start::lock_pins(&loaded.policy.agent.pins)?;
    start::keep_least_privilege().context("giving up capabilities")?;
    let events = EventStream::start(&loaded.policy.sinks).context("opening the event sinks")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let life = live(args, program, loaded, events, (user, passed), prepared);
    let code = LocalSet::new().block_on(&runtime, life);
    drop((lock, pins_lock));
    code
}

/// Undoes what an agent that is gone changed of the host; a sentence about it, if it did.
pub(crate) fn restore_host(state: &Path) -> std::io::Result<Option<String>> {
    cookies::restore_left_behind(state)
}

/// The agent's life: kernel half first, so that packets are filtered before anything listens.
async fn live(
    args: &RunArgs,
    program: PathBuf,
    loaded: Loaded,
    events: EventStream,
    (user, passed): (Option<(u32, u32)>, sockets::Passed),
    prepared: Result<ProgramNames, KernelError>,
) -> Result<ExitCode> {
    let Loaded { policy: configured, risks, file } = loaded;
    let (lists, lists_problem) = RuntimeLists::open(&configured.agent.state);
    let policy = lists.merged(&configured);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    let mut problems = Problems::default();
    if let Some(problem) = lists_problem {
        problems.begin(Problem::ListsUnread, problem);
    }
    let mut routed = BTreeSet::new();
    let kernel = start_or_detach(&policy, args, prepared, &mut routed, &mut problems)?;
    let drops = match &kernel {
        Some(kernel) => Some(kernel.drops(dropped::read_ledger(&policy.agent.runtime).as_ref())?),
        None => None,
    };
    let opening = bans::now();
    let (book, problem) = Book::open(&policy.agent.state, opening);
    if let Some(problem) = problem {
        problems.begin(Problem::BookUnread, problem);
    }

    let (to_proxy, messages) = mpsc::channel(supervisor::QUEUE);
    let agent = Rc::new(Agent {
        args: args.clone(),
        program,
        notifier: Notifier::default(),
        file,
        started_ns: clock::monotonic_ns(),
        events,
        to_proxy,
        outbox: Outbox::default(),
        shared_bans: SharedBans::open(&policy.agent.state),
        stopping: Cell::new(false),
        proxy_missed: Cell::new(false),
        lists_lag: Cell::new(true),
        changing: tokio::sync::Mutex::new(()),
        inner: RefCell::new(Inner {
            safety: Safety::of(&policy),
            generation: 1,
            applied: 0,
            kernel,
            drops,
            escalation: Escalation::default(),
            book,
            restored: (0, Duration::ZERO),
            bans_refused: BTreeMap::new(),
            cookies: Cookies::open(&policy.agent.state),
            aggregate: Aggregate::default(),
            top: top::Top::default(),
            proxy_pid: None,
            proxy_started_ns: 0,
            proxy_starts: 0,
            proxy_counters: ProxyCounters::default(),
            overload: ProxyOverload::default(),
            observations_lost: 0,
            problems,
            configured,
            lists_on_disk: lists.clone(),
            lists,
            policy,
            watch: Watch::start(routed),
            certificates: CertificateFiles::default(),
            trial: None,
            access_log: AccessLog::default(),
            limiter_memory: None,
        }),
    });
    agent.inner.borrow_mut().note_unfiltered();
    agent.restore_bans(opening);
    agent.lift_bans_of_trusted();
    agent.announce(&risks);

    let control = agent.inner.borrow().policy.agent.runtime.join(SOCKET_NAME);
    let server = Server::bind(&control)
        .with_context(|| format!("cannot make the control socket {}", control.display()))?;
    let backend = Rc::clone(&agent);
    tokio::task::spawn_local(async move { server.serve(backend).await });
    tokio::task::spawn_local(outbox::run(Rc::clone(&agent)));
    tokio::task::spawn_local(shared_bans::run(Rc::clone(&agent)));
    start_proxy(&agent, messages, user, passed).await?;

    match upkeep::attend(&agent, &mut terminate, &mut interrupt, &mut hangup).await? {
        End::Stop(patience) => agent.stop(patience, &mut terminate, &mut interrupt).await,
        End::Upgrade => {
            let failed = agent.give_way();
            return Err(failed).context("the new program cannot be executed");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Binds each listener once (or takes it over from a proxy that an earlier agent left) and keeps a
/// proxy running behind them.
async fn start_proxy(
    agent: &Rc<Agent>,
    messages: mpsc::Receiver<ToProxy>,
    user: Option<(u32, u32)>,
    mut passed: sockets::Passed,
) -> Result<()> {
    let (addresses, rendezvous_path) = {
        let inner = agent.inner.borrow();
        let listeners = inner.policy.http.as_ref().map(|http| &http.listeners);
        let addresses =
            listeners.map(|all| all.iter().map(|one| one.address.clone()).collect::<Vec<_>>());
        (addresses, inner.policy.agent.runtime.join("proxy.sock"))
    };
    let (mut earlier, mut found, memory) = match supervisor::take_over(&rendezvous_path).await {
        Some(handed) => (Some(handed.link), handed.sockets, handed.memory),
        None => (None, Vec::new(), None),
    };
    let Some(addresses) = addresses else {
        // There is no [http] any more: what an earlier agent's proxy serves ends.
        if let Some(link) = earlier.as_mut() {
            drop(link.send(&ToProxy::Drain, &[]).await);
        }
        agent.notifier.ready();
        return Ok(());
    };
    let mut sockets: Vec<(ListenAddress, OwnedFd)> = Vec::new();
    let group = user.map(|(_, group)| group);
    for address in addresses {
        let (known, others) = found.into_iter().partition(|(of, _)| *of == address);
        found = others;
        if Vec::is_empty(&known) {
            let opened = sockets::open(&address, &mut passed, group)?;
            sockets.extend(opened.into_iter().map(|socket| (address.clone(), socket)));
        } else {
            sockets.extend(known);
        }
    }
    drop(found);
    let memory = agent.limiter_memory(memory);
    let setup = ProxySetup { sockets, rendezvous_path, user, memory };
    let supervised = Rc::clone(agent);
    tokio::task::spawn_local(supervisor::supervise(supervised, setup, messages, earlier));
    Ok(())
}

impl Agent {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// How long requests in flight may take to finish.
    fn drain_patience(&self) -> Duration {
        let inner = self.inner.borrow();
        inner.policy.http.as_ref().map(|http| http.timeouts.drain).unwrap_or_default()
    }

    /// Until there is no proxy.
    async fn no_proxy_left(&self) {
        while self.inner.borrow().proxy_pid.is_some() {
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Drains the proxy, writes what is still to be written. XDP stays where it is. A second
    /// signal ends the wait.
    async fn stop(&self, patience: Duration, terminate: &mut Signal, interrupt: &mut Signal) {
        self.stopping.set(true);
        notify::stopping();
        self.tell_proxy(ToProxy::Drain);
        let grace = if patience.is_zero() { END_GRACE } else { DRAIN_GRACE };
        tokio::select! {
            () = self.no_proxy_left() => {}
            () = time::sleep(patience + grace) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let left = self.inner.borrow().proxy_pid;
        if let Some(pid) = left {
            supervisor::end(pid);
            // What it counts last is to be kept.
            time::timeout(END_GRACE, self.no_proxy_left()).await.ok();
        }
        self.collect_drops(true);
        let sums = {
            let mut inner = self.inner.borrow_mut();
            inner.book.close();
            drop(fs::remove_file(inner.policy.agent.runtime.join("proxy.sock")));
            inner.aggregate.tick(clock::unix_ns())
        };
        for event in sums {
            self.events.publish(event);
        }
        self.save_ledger();
        self.keep_limits();
        self.events.finish(FINISH_PATIENCE);
    }
}
