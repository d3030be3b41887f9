//! How the proxy and an agent meet: hellos on a new link, and a later agent on the rendezvous
//! socket when the one before died. Only root is let in.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener as StdUnixListener},
    rc::Rc,
    time::Duration,
};

use tokio::net::UnixListener;

use crate::link::{FromProxy, Hello, ToProxy, codec::Link};

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

/// Waits for a later agent; only root is let in. One of another version is let in too: what it
/// needs for taking over, hand-over and drain, every version has.
pub(super) async fn meet(listener: Rc<UnixListener>) -> Link {
    loop {
        match listener.accept().await {
            Ok((socket, _)) if socket.peer_cred().is_ok_and(|peer| peer.uid() == 0) => {
                match greet(Link::from_tokio(socket)).await {
                    Ok((link, _)) => return link,
                    Err(error) => log::warn!("a new agent did not say hello: {error}"),
                }
            }
            Ok(_) => log::warn!("a process that is not root tried to take the proxy over"),
            Err(error) => {
                log::warn!("rendezvous socket: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What the meeting came to; never, without one.
pub(super) async fn finished(meeting: Option<&mut tokio::task::JoinHandle<Link>>) -> Option<Link> {
    match meeting {
        Some(meeting) => meeting.await.ok(),
        None => std::future::pending().await,
    }
}
