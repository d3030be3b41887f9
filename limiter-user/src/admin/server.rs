//! The control socket: accepts, checks who is calling, serves HTTP/1.1 with bounds.
//!
//! Never decides anything about the agent; `routes` asks the [`Backend`].

use std::{
    convert::Infallible,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use super::{
    Backend,
    io::{Socket, TokioTimer},
    routes::{self, Shared},
    view::Failure,
};

/// Connections at a time; further ones wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 64;

/// Readers of `/v1/events` at a time, so that they cannot take every connection.
const MAX_FOLLOWERS: usize = 32;

/// For a request head, the wait between two requests included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 << 10;

/// A bound control socket; dropping it removes the path.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Creates the socket (mode 0600), in place of one that an earlier agent left. The caller
    /// holds the agent's lock, so nobody else serves this path. Needs a tokio runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        // Under another name until its mode is right; the rename also replaces a stale socket.
        let fresh = path.with_extension(format!("{}", std::process::id()));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(Self { listener, path: path.into() })
    }

    /// Serves until dropped. Needs a `LocalSet`, on which connections go on by themselves.
    pub async fn serve<B: Backend>(&self, backend: Rc<B>) -> Infallible {
        let shared =
            Rc::new(Shared { backend, followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)) });
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let own_uid = nix::unistd::geteuid().as_raw();
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&connections).acquire_owned().await.ok();
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors, most likely: let others end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move {
                let _place = place;
                connection(stream, own_uid, &shared).await;
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next agent.
        drop(fs::remove_file(&self.path));
    }
}

async fn connection<B: Backend>(stream: UnixStream, own_uid: u32, shared: &Rc<Shared<B>>) {
    let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(if may_ask(uid, own_uid) {
            routes::answer(shared, request).await
        } else {
            routes::failure(&Failure {
                status: 403,
                message: format!("only root or uid {own_uid} may ask this agent"),
            })
        })
    });
    let served = http1::Builder::new()
        .timer(TokioTimer)
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .serve_connection(Socket(stream), service)
        .await;
    if let Err(error) = served {
        log::debug!("control socket: {error}");
    }
}

/// Root, and whoever the agent runs as. The socket's mode says the same; this holds also where
/// the mode was changed.
fn may_ask(uid: Option<u32>, own_uid: u32) -> bool {
    uid.is_some_and(|uid| uid == 0 || uid == own_uid)
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
