//! How the proxy and an agent meet: hellos on a new link, and a later agent on the rendezvous
//! socket when the one before died. Only root and the agent's user are let in.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener as StdUnixListener},
    rc::Rc,
    time::Duration,
};

use nix::unistd::getuid;
use tokio::net::UnixListener;

use super::privileges::has_own_user;
use crate::link::{
    FromProxy, Hello, ToProxy,
    codec::{Link, LinkReceiver},
};

/// How long a new agent may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The socket on which later agents ask for the proxy.
pub(super) fn rendezvous(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = StdUnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Exchanges hellos on a new link.
pub(super) async fn greet(mut link: Link) -> io::Result<(Link, Hello)> {
    let ours = FromProxy::Hello(Hello::of_this_process(
        option_env!("LIMITER_BUILD_ID").unwrap_or("unknown"),
    ));
    let greeting = async {
        link.send(&ours, &[]).await?;
        link.recv::<ToProxy>().await
    };
    match tokio::time::timeout(HELLO_TIMEOUT, greeting).await?? {
        Some((ToProxy::Hello(hello), _)) => Ok((link, hello)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no hello")),
    }
}

/// Waits for a later agent; only root and the agent's own user are let in. One of another version is let in too: what it
/// needs for taking over, hand-over and drain, every version has.
pub(super) async fn meet(listener: Rc<UnixListener>) -> Link {
    // A user that only the proxy has could be that of code which took over another proxy.
    let agents_user = (!has_own_user()).then(|| getuid().as_raw());
    loop {
        match listener.accept().await {
            Ok((socket, _))
                if socket.peer_cred().is_ok_and(|peer| is_agent(peer.uid(), agents_user)) =>
            {
                match greet(Link::from_tokio(socket)).await {
                    Ok((link, _)) => return link,
                    Err(error) => log::warn!("a new agent did not say hello: {error}"),
                }
            }
            Ok(_) => log::warn!("a process of another user tried to take the proxy over"),
            Err(error) => {
                log::warn!("rendezvous socket: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whether a process of user `uid` may take over; `agents_user`: the one that this process shares
/// with its agent, if it does.
fn is_agent(uid: u32, agents_user: Option<u32>) -> bool {
    uid == 0 || agents_user == Some(uid)
}

/// What the meeting came to; never, without one.
pub(super) async fn finished(meeting: Option<&mut tokio::task::JoinHandle<Link>>) -> Option<Link> {
    match meeting {
        Some(meeting) => meeting.await.ok(),
        None => std::future::pending().await,
    }
}

/// The agent's next message; never, without an agent.
pub(super) async fn receive(
    agent: Option<&mut LinkReceiver>,
) -> io::Result<Option<(ToProxy, Vec<OwnedFd>)>> {
    match agent {
        Some(agent) => agent.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_user_take_over() {
        assert!(is_agent(0, None) && is_agent(0, Some(1000)) && is_agent(1000, Some(1000)));
        assert!(!is_agent(1000, None) && !is_agent(1001, Some(1000)));
    }
}
