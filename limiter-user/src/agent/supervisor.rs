//! The proxy process as the agent holds it: started, told, listened to, started again.
//!
//! The agent keeps its own copies of the listening sockets, so that connections wait in their
//! queues while a proxy that died is replaced. A proxy whose agent died is found at the rendezvous
//! socket; it hands its sockets over and drains once the new one serves.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::PathBuf,
    process::{Child, Command},
    rc::Rc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{sync::mpsc, time};

use super::{Agent, upgrade};
use crate::{
    clock,
    link::{
        FromProxy, Hello, LINK_FD, ToProxy,
        codec::{Link, LinkSender},
    },
    policy::listener::ListenAddress,
    proxy::{
        THREADS_VARIABLE,
        privileges::{GID_VARIABLE, UID_VARIABLE},
    },
};

/// How long a proxy may take to say hello or to hand over.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A proxy that lived shorter than this is not replaced at once.
const SHORT_LIFE_NS: u64 = 1_000_000_000;

/// How many that served and died young are replaced at once, one after the other.
const AT_ONCE_IN_A_ROW: u32 = 10;

/// Pause before replacing proxies that die young: the first, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Messages that may wait for the proxy.
pub(super) const QUEUE: usize = 1_024;

/// Variables that the proxy gets from the agent's environment.
const PROXY_ENVIRONMENT: [&str; 2] = [THREADS_VARIABLE, "RUST_BACKTRACE"];

/// What a proxy needs to start.
#[derive(Debug)]
pub(super) struct ProxySetup {
    pub(super) sockets: Vec<(ListenAddress, OwnedFd)>,
    pub(super) rendezvous_path: PathBuf,
    pub(super) user: Option<(u32, u32)>,
    /// What limits are counted in, whichever proxy counts.
    pub(super) memory: Option<Rc<OwnedFd>>,
}

/// What a proxy that an earlier agent left gives to this one.
#[derive(Debug)]
pub(super) struct HandedOver {
    pub(super) link: Link,
    pub(super) sockets: Vec<(ListenAddress, OwnedFd)>,
    pub(super) memory: Option<OwnedFd>,
}

/// Keeps a proxy running until the agent stops. `earlier` is drained once the first one serves.
pub(super) async fn supervise(
    agent: Rc<Agent>,
    mut setup: ProxySetup,
    mut messages: mpsc::Receiver<ToProxy>,
    mut earlier: Option<Link>,
) {
    let mut pauses = Pauses::default();
    let mut pause = Duration::ZERO;
    while !agent.is_stopping() {
        if !pause.is_zero() {
            time::sleep(pause).await;
        }
        let born_ns = clock::monotonic_ns();
        // The new process is given everything as it is now.
        while messages.try_recv().is_ok() {}
        let mut has_served = false;
        match start(&agent, &setup).await {
            Ok((mut child, link)) => {
                let mut attention = Attention {
                    agent: &agent,
                    sockets: &mut setup.sockets,
                    earlier: &mut earlier,
                    has_served: &mut has_served,
                };
                let ended = attention.attend(link, &mut messages).await;
                agent.proxy_ended(&describe_end(&mut child, ended).await);
            }
            Err(error) => agent.proxy_ended(&format!("it cannot be started: {error}")),
        }
        let died_young = clock::monotonic_ns().saturating_sub(born_ns) < SHORT_LIFE_NS;
        pause = pauses.after(has_served, died_young);
    }
}

/// How long to wait before a proxy that ended is replaced. One that served was ended by something
/// that happened to it, and connections wait: it is replaced at once, unless that happens again
/// and again. One that cannot even begin is tried ever more rarely.
#[derive(Debug, Default)]
struct Pauses {
    in_a_row: u32,
    last: Duration,
}

impl Pauses {
    fn after(&mut self, has_served: bool, died_young: bool) -> Duration {
        self.in_a_row = if died_young { self.in_a_row + 1 } else { 0 };
        self.last = match (has_served, died_young) {
            (_, false) => Duration::ZERO,
            (true, true) if self.in_a_row <= AT_ONCE_IN_A_ROW => Duration::ZERO,
            (true, true) => PAUSES.0,
            (false, true) if self.last.is_zero() => PAUSES.0,
            (false, true) => (self.last * 2).min(PAUSES.1),
        };
        self.last
    }
}

/// Starts the process.
async fn start(agent: &Agent, setup: &ProxySetup) -> io::Result<(Child, Link)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("limiter").arg("proxy").current_dir("/");
    // The proxy gets digests, never secrets, and any variable may be one (`{ env = "NAME" }`).
    command.env_clear();
    for variable in PROXY_ENVIRONMENT {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    if let Some((uid, gid)) = setup.user {
        command.env(UID_VARIABLE, uid.to_string()).env(GID_VARIABLE, gid.to_string());
    }
    let mut child = crate::sys::spawn_with_descriptor(&mut command, &theirs.into(), LINK_FD)?;
    agent.proxy_started(child.id());
    match equip(agent, setup, ours).await {
        Ok(link) => Ok((child, link)),
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            Err(error)
        }
    }
}

/// Gives a new process all it needs.
async fn equip(agent: &Agent, setup: &ProxySetup, ours: UnixStream) -> io::Result<Link> {
    let mut link = Link::from_std(ours)?;
    let greeted = time::timeout(GREETING_TIMEOUT, async {
        link.send(&ToProxy::Hello(Hello::of_this_process(super::BUILD)), &[]).await?;
        greet(&mut link).await
    });
    greeted.await??;
    let rendezvous: UnixListener = super::start::rendezvous(&setup.rendezvous_path)?;
    link.send(&ToProxy::Rendezvous, &[rendezvous.as_fd()]).await?;
    if let Some(memory) = &setup.memory {
        link.send(&ToProxy::LimiterMemory, &[memory.as_fd()]).await?;
    }
    let (generation, policy, bans) = agent.proxy_policy();
    let Some(policy) = policy else {
        return Err(io::Error::other("there is no [http] policy"));
    };
    link.send(&ToProxy::Policy { generation, policy: Box::new(policy) }, &[]).await?;
    link.send(&ToProxy::HttpBans(bans), &[]).await?;
    let log = agent.access_log_file();
    let log: Vec<BorrowedFd<'_>> = log.iter().map(OwnedFd::as_fd).collect();
    link.send(&ToProxy::AccessLog, &log).await?;
    let addresses = setup.sockets.iter().map(|(address, _)| address.clone()).collect();
    let sockets: Vec<BorrowedFd<'_>> =
        setup.sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    link.send(&ToProxy::Listeners(addresses), &sockets).await?;
    Ok(link)
}

async fn greet(link: &mut Link) -> io::Result<()> {
    match link.recv::<FromProxy>().await? {
        Some((FromProxy::Hello(hello), _)) if hello.is_compatible() => Ok(()),
        Some((FromProxy::Hello(hello), _)) => {
            Err(io::Error::other(format!("it speaks version {} of the link", hello.protocol)))
        }
        _ => Err(io::Error::other("it did not say hello")),
    }
}

/// What one proxy's life changes.
struct Attention<'a> {
    agent: &'a Agent,
    sockets: &'a mut Vec<(ListenAddress, OwnedFd)>,
    earlier: &'a mut Option<Link>,
    has_served: &'a mut bool,
}

impl Attention<'_> {
    /// Passes messages both ways until the link ends.
    async fn attend(
        &mut self,
        link: Link,
        messages: &mut mpsc::Receiver<ToProxy>,
    ) -> io::Result<()> {
        let (mut sender, mut receiver) = link.split();
        loop {
            tokio::select! {
                said = receiver.recv::<FromProxy>() => match said? {
                    Some((FromProxy::PolicyApplied { generation }, _)) => {
                        *self.has_served = true;
                        self.agent.proxy_applied(generation);
                        if let Some(mut earlier) = self.earlier.take() {
                            // Its connections finish; if it is gone already, so much the better.
                            drop(earlier.send(&ToProxy::Drain, &[]).await);
                        }
                    }
                    Some((message, _)) => self.agent.received(message),
                    None => return Ok(()),
                },
                Some(message) = messages.recv() => {
                    if message == ToProxy::Drain {
                        // Whoever connects from now on is refused, rather than left waiting for
                        // somebody to accept.
                        self.sockets.clear();
                    }
                    send(self.agent, &mut sender, &message).await?;
                }
            }
        }
    }
}

async fn send(agent: &Agent, sender: &mut LinkSender, message: &ToProxy) -> io::Result<()> {
    let log = (*message == ToProxy::AccessLog).then(|| agent.access_log_file()).flatten();
    let log: Vec<BorrowedFd<'_>> = log.iter().map(OwnedFd::as_fd).collect();
    match time::timeout(GREETING_TIMEOUT, sender.send(message, &log)).await {
        Ok(sent) => sent,
        Err(_) => Err(io::Error::other("the proxy does not read its messages")),
    }
}

/// Waits for the process to end, with force if it does not by itself.
async fn describe_end(child: &mut Child, link: io::Result<()>) -> String {
    let why = match link {
        Ok(()) => "the link closed".to_owned(),
        Err(error) => format!("the link broke: {error}"),
    };
    for _ in 0..50 {
        if let Ok(Some(status)) = child.try_wait() {
            return format!("{why}; {status}");
        }
        time::sleep(Duration::from_millis(2)).await;
    }
    // A process that closed its link serves nobody any more.
    drop(child.kill());
    match child.wait() {
        Ok(status) => format!("{why}; killed; {status}"),
        Err(error) => format!("{why}; {error}"),
    }
}

/// Asks a proxy that an earlier agent left for its listening sockets.
pub(super) async fn take_over(path: &std::path::Path) -> Option<HandedOver> {
    let socket = UnixStream::connect(path).ok()?;
    let mut link = Link::from_std(socket).ok()?;
    let asked = time::timeout(GREETING_TIMEOUT, async {
        link.send(&ToProxy::Hello(Hello::of_this_process(super::BUILD)), &[]).await?;
        link.send(&ToProxy::HandOver, &[]).await?;
        loop {
            match link.recv::<FromProxy>().await? {
                Some((FromProxy::Hello(hello), _)) => {
                    // This process may have been its agent's, with an earlier program.
                    tokio::task::spawn_local(upgrade::reap(hello.pid));
                }
                Some((FromProxy::HandOver(addresses), descriptors)) => {
                    let mut descriptors = descriptors.into_iter();
                    let sockets: Vec<_> = addresses.into_iter().zip(descriptors.by_ref()).collect();
                    return Ok((sockets, descriptors.next()));
                }
                Some(_) => {}
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
    });
    match asked.await {
        Ok(Ok((sockets, memory))) => Some(HandedOver { link, sockets, memory }),
        Ok(Err(error)) => {
            log::warn!("a proxy at {} did not hand over: {error}", path.display());
            None
        }
        Err(_) => {
            log::warn!("a proxy at {} does not answer", path.display());
            None
        }
    }
}

/// Ends a proxy that did not drain in time.
pub(super) fn end(pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
        log::warn!("the proxy cannot be ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_served_is_replaced_at_once_and_what_cannot_begin_ever_more_rarely() {
        let mut pauses = Pauses::default();
        assert!((0..AT_ONCE_IN_A_ROW).all(|_| pauses.after(true, true).is_zero()));
        assert_eq!(pauses.after(true, true), PAUSES.0, "again and again");
        assert_eq!(pauses.after(true, false), Duration::ZERO, "it lived for a while");
        let begun: Vec<_> = (0..8).map(|_| pauses.after(false, true).as_millis()).collect();
        assert_eq!(begun, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
