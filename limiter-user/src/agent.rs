//! The agent: configuration, kernel half, bans, events, control socket, and the proxy it starts.
//!
//! In: the configuration, what the kernel and the proxy report, what the command line asks; out:
//! maps, bans, events. Root at first, then only the capabilities it needs. It never parses what a
//! peer sent: requests are the proxy's, packets the kernel's. None of its ends takes XDP off.

mod backend;
mod bans;
mod book;
mod escalation;
mod host;
mod observe;
mod problems;
mod proxy_side;
mod safety;
mod start;
mod supervisor;
mod upkeep;
mod view;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fs,
    path::PathBuf,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use limiter_common::{report::Counter, verdict::Verdict};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::LocalSet,
    time,
};

use self::{
    book::Book,
    escalation::Escalation,
    problems::{Problem, Problems},
    safety::Safety,
    supervisor::ProxySetup,
};
use crate::{
    admin::{Backend as _, SOCKET_NAME, server::Server},
    cli::{UsageError, run::RunArgs},
    clock,
    config::{self, Loaded, Sources},
    events::{Event, Lifecycle, aggregate::Aggregate, stream::EventStream},
    kernel::{Drops, Kernel, KernelError, image::HostFacts},
    link::{ProxyCounters, ToProxy},
    policy::{KernelPolicy, Policy},
};

/// Build id of this binary.
pub(crate) const BUILD: &str = env!("LIMITER_BUILD_ID");

/// How often the kernel's ring buffer is emptied.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// How often what is gathered is told, bans are swept, the book is saved.
const TICK: Duration = Duration::from_secs(1);

/// How long sinks may take to write what they hold when the agent ends.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);

/// Beyond the policy's drain time, until a proxy is ended with force.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// The running agent. One thread, so that nothing of it is shared.
pub(crate) struct Agent {
    args: RunArgs,
    file: Option<PathBuf>,
    started_ns: u64,
    events: EventStream,
    to_proxy: mpsc::Sender<ToProxy>,
    stopping: Cell<bool>,
    /// A message to the proxy found no room.
    proxy_missed: Cell<bool>,
    inner: RefCell<Inner>,
}

/// What changes. Never borrowed across an await.
struct Inner {
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
    aggregate: Aggregate,
    /// Lost drop records that were told, by interface and verdict.
    lost_told: HashMap<(u32, Verdict), Counter>,
    proxy_pid: Option<u32>,
    proxy_starts: u64,
    proxy_counters: ProxyCounters,
    /// Observations that the proxy or its link lost.
    observations_lost: u64,
    problems: Problems,
}

/// `limiter run`: until a signal ends it.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode> {
    let loaded = load(args).map_err(|error| UsageError(error.to_string()))?;
    let lock = start::lock(&loaded.policy.agent)?;
    let user = start::proxy_user(loaded.policy.agent.user.as_deref())?;
    let prepared = match &loaded.policy.kernel {
        Some(_) => crate::kernel::prepare_pins(&loaded.policy.agent.pins),
        None => Ok(()),
    };
    let pins_lock = start::lock_pins(&loaded.policy.agent.pins)?;
    start::keep_least_privilege().context("giving up capabilities")?;
    let events = EventStream::start(&loaded.policy.sinks).context("opening the event sinks")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = LocalSet::new().block_on(&runtime, live(args, loaded, events, user, prepared));
    drop((lock, pins_lock));
    code
}

/// Reads and checks the configuration.
fn load(args: &RunArgs) -> Result<Loaded, config::ConfigError> {
    config::load(&Sources {
        file: args.config.clone(),
        preset: args.preset.clone(),
        interfaces: args.interface.clone(),
        listen: args.listen.clone(),
        upstream: args.upstream.clone(),
        allow_unauthenticated: args.allow_unauthenticated,
        ..Sources::new(&config::process_environment)
    })
}

/// The agent's life: kernel half first, so that packets are filtered before anything listens.
async fn live(
    args: &RunArgs,
    loaded: Loaded,
    events: EventStream,
    user: Option<(u32, u32)>,
    prepared: Result<(), KernelError>,
) -> Result<ExitCode> {
    let Loaded { policy, risks, file } = loaded;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    let mut problems = Problems::default();
    let kernel = if let Some(kernel_policy) = &policy.kernel {
        let started = prepared.map_err(anyhow::Error::from);
        match started.and_then(|()| start_kernel(&policy, kernel_policy, args)) {
            Ok(kernel) => Some(kernel),
            Err(error) if kernel_policy.required => return Err(error),
            Err(error) => {
                problems.begin(Problem::KernelOff, format!("the kernel half is off: {error:#}"));
                None
            }
        }
    } else {
        // What an earlier agent attached would filter for ever, by a policy nobody sees.
        let links = crate::kernel::detach_pins(&policy.agent.pins)?;
        if links > 0 {
            log::warn!("XDP of an earlier agent is taken off: there is no [kernel] any more");
        }
        None
    };
    let drops = match &kernel {
        Some(kernel) => Some(kernel.drops()?),
        None => None,
    };
    // What was lost under an earlier agent is not news.
    let lost_told = kernel
        .iter()
        .flat_map(|kernel| kernel.counts().1)
        .map(|lost| ((lost.interface, lost.verdict), lost.counter))
        .collect();
    let (book, problem) = Book::open(&policy.agent.state);
    if let Some(problem) = problem {
        problems.begin(Problem::BookUnread, problem);
    }

    let (to_proxy, messages) = mpsc::channel(supervisor::QUEUE);
    let agent = Rc::new(Agent {
        args: args.clone(),
        file,
        started_ns: clock::monotonic_ns(),
        events,
        to_proxy,
        stopping: Cell::new(false),
        proxy_missed: Cell::new(false),
        inner: RefCell::new(Inner {
            safety: safety_of(&policy),
            generation: 1,
            applied: 0,
            kernel,
            drops,
            escalation: Escalation::default(),
            book,
            aggregate: Aggregate::default(),
            lost_told,
            proxy_pid: None,
            proxy_starts: 0,
            proxy_counters: ProxyCounters::default(),
            observations_lost: 0,
            problems,
            policy,
        }),
    });
    agent.restore_bans();
    agent.lift_bans_of_trusted();
    agent.announce(&risks);

    let control = agent.inner.borrow().policy.agent.runtime.join(SOCKET_NAME);
    let server = Server::bind(&control)
        .with_context(|| format!("cannot make the control socket {}", control.display()))?;
    let backend = Rc::clone(&agent);
    tokio::task::spawn_local(async move { server.serve(backend).await });
    start_proxy(&agent, messages, user).await?;

    let mut drain = time::interval(DRAIN_EVERY);
    let mut tick = time::interval(TICK);
    let patience = loop {
        tokio::select! {
            _ = drain.tick() => agent.collect_drops(false),
            _ = tick.tick() => agent.tick(),
            _ = hangup.recv() => {
                agent.events.reopen();
                // The outcome is an event; whatever else happens meanwhile is not kept waiting.
                let reloading = Rc::clone(&agent);
                tokio::task::spawn_local(async move { drop(reloading.reload().await) });
            }
            _ = terminate.recv() => break agent.drain_patience(),
            _ = interrupt.recv() => break Duration::ZERO,
        }
    };
    agent.stop(patience, &mut terminate, &mut interrupt).await;
    Ok(ExitCode::SUCCESS)
}

/// Loads and attaches, or takes over what an earlier agent left.
fn start_kernel(policy: &Policy, kernel_policy: &KernelPolicy, args: &RunArgs) -> Result<Kernel> {
    let interfaces = host::interfaces(&kernel_policy.interfaces).map_err(anyhow::Error::msg)?;
    let facts = host_facts(policy);
    let diagnostics = args.kernel_log.unwrap_or(log::LevelFilter::Off);
    Ok(Kernel::start(kernel_policy, &interfaces, &policy.agent.pins, &facts, diagnostics)?)
}

fn host_facts(policy: &Policy) -> HostFacts {
    let listeners = policy.http.iter().flat_map(|http| &http.listeners);
    HostFacts {
        sshd_ports: host::sshd_ports(),
        listening_ports: listeners.map(|listener| listener.address.port()).collect(),
        own_addresses: host::addresses_by_importance(),
        forwards: host::forwards(),
        // The kernel half knows them.
        slots: Vec::new(),
    }
}

fn safety_of(policy: &Policy) -> Safety {
    let mut trusted =
        policy.kernel.iter().flat_map(KernelPolicy::trusted_networks).collect::<Vec<_>>();
    trusted.extend(policy.http.iter().flat_map(|http| http.trusted.clone()));
    let mut safety = Safety {
        trusted,
        trusted_proxies: policy.http.iter().flat_map(|http| http.trusted_proxies.clone()).collect(),
        ..Safety::default()
    };
    safety.look_at_host();
    safety
}

/// Binds each listener once (or takes it over from a proxy that an earlier agent left) and keeps a
/// proxy running behind them.
async fn start_proxy(
    agent: &Rc<Agent>,
    messages: mpsc::Receiver<ToProxy>,
    user: Option<(u32, u32)>,
) -> Result<()> {
    let (addresses, rendezvous_path) = {
        let inner = agent.inner.borrow();
        let listeners = inner.policy.http.as_ref().map(|http| &http.listeners);
        let addresses = listeners.map(|all| all.iter().map(|one| one.address).collect::<Vec<_>>());
        (addresses, inner.policy.agent.runtime.join("proxy.sock"))
    };
    let (mut earlier, mut found) = match supervisor::take_over(&rendezvous_path).await {
        Some((link, sockets)) => (Some(link), sockets),
        None => (None, Vec::new()),
    };
    let Some(addresses) = addresses else {
        // There is no [http] any more: what an earlier agent's proxy serves ends.
        if let Some(link) = earlier.as_mut() {
            drop(link.send(&ToProxy::Drain, &[]).await);
        }
        return Ok(());
    };
    let mut sockets = Vec::new();
    for address in addresses {
        let known = found.iter().position(|(of, _)| *of == address);
        let socket = match known {
            Some(index) => supervisor::listener(found.swap_remove(index).1)?,
            None => start::listen_on(address)?,
        };
        sockets.push((address, socket));
    }
    drop(found);
    let setup = ProxySetup { sockets, rendezvous_path, user };
    let supervised = Rc::clone(agent);
    tokio::task::spawn_local(supervisor::supervise(supervised, setup, messages, earlier));
    Ok(())
}

impl Agent {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Hands an event on, unless it only adds to the sums of this second.
    pub(super) fn publish(&self, event: Event) {
        let passed = self.inner.borrow_mut().aggregate.observe(event);
        if let Some(event) = passed {
            self.events.publish(event);
        }
    }

    fn lifecycle(&self, what: Lifecycle, detail: impl Into<String>) {
        self.publish(Event::lifecycle(clock::unix_ns(), what, detail));
    }

    pub(super) fn degraded_event(&self, detail: &str) {
        self.lifecycle(Lifecycle::Degraded, detail);
    }

    /// What is attached and what is not as it should be, at start.
    fn announce(&self, risks: &[config::Risk]) {
        let (interfaces, degraded) = {
            let inner = self.inner.borrow();
            let interfaces = inner.kernel.as_ref().map(Kernel::interfaces).unwrap_or_default();
            (interfaces, inner.problems.sentences())
        };
        for interface in interfaces {
            let how = if interface.taken_over { ", taken over" } else { "" };
            let mode = interface.mode.label();
            self.lifecycle(Lifecycle::Attached, format!("{} ({mode}{how})", interface.name));
        }
        for sentence in degraded {
            self.degraded_event(&sentence);
        }
        for risk in risks {
            log::warn!("{}: {}", risk.key, risk.sentence);
        }
    }

    /// How long requests in flight may take to finish.
    fn drain_patience(&self) -> Duration {
        let inner = self.inner.borrow();
        inner.policy.http.as_ref().map(|http| http.timeouts.drain).unwrap_or_default()
    }

    /// Drains the proxy, writes what is still to be written. XDP stays where it is. A second
    /// signal ends the wait.
    async fn stop(
        &self,
        patience: Duration,
        terminate: &mut tokio::signal::unix::Signal,
        interrupt: &mut tokio::signal::unix::Signal,
    ) {
        self.stopping.set(true);
        self.tell_proxy(ToProxy::Drain);
        let drained = async {
            while self.inner.borrow().proxy_pid.is_some() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = time::sleep(patience + DRAIN_GRACE) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let left = self.inner.borrow().proxy_pid;
        if let Some(pid) = left {
            supervisor::end(pid);
        }
        self.collect_drops(true);
        let sums = {
            let mut inner = self.inner.borrow_mut();
            if let Err(error) = inner.book.save() {
                log::error!("the bans cannot be saved: {error}");
            }
            drop(fs::remove_file(inner.policy.agent.runtime.join("proxy.sock")));
            inner.aggregate.tick(clock::unix_ns())
        };
        for event in sums {
            self.events.publish(event);
        }
        self.events.finish(FINISH_PATIENCE);
    }
}
