//! From a policy to a connection that is known to work: resolved, connected, greeted, tried.
//!
//! Errors say what went wrong in one bounded line and never hold a password.

use std::{
    fmt, io,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_lc_rs::{digest, hmac};
use redis::{
    AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    task::AbortHandle,
    time,
};
use tokio_rustls::TlsConnector;

use super::{
    charge,
    script::{Script, ask},
};
use crate::policy::store::StorePolicy;

/// To resolve the name, connect and greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that may wait to be written.
const QUEUE: usize = 256;

/// Characters of what the server says that are repeated.
const MAX_MESSAGE: usize = 160;

/// Separates what digests are for.
const IDENTITY_CONTEXT: &[u8] = b"limiter: identities in a shared store\0";

pub(super) static CHARGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("charge.lua")));

/// Why the store did not decide.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreError {
    /// There is no connection: it is being made anew.
    Absent,
    /// No answer in time.
    TimedOut,
    /// The connection could not be made, or broke.
    Broken(String),
    /// The server answers that it cannot.
    Refused(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not connected"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Broken(why) => write!(f, "connection: {why}"),
            Self::Refused(why) => write!(f, "it answers: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let text = bounded(&error.to_string());
        if error.is_timeout() {
            Self::TimedOut
        } else if error.is_io_error() || error.is_connection_dropped() {
            Self::Broken(text)
        } else {
            Self::Refused(text)
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Broken(bounded(&error.to_string()))
    }
}

/// One line of bounded length.
fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

/// A store ready to be connected to.
pub struct Target {
    policy: StorePolicy,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Makes identities of clients unreadable.
    pub(super) identities: hmac::Key,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Target {
    /// Checks what the types do not say; the message names what is wrong.
    pub fn new(policy: &StorePolicy) -> Result<Self, String> {
        let tls = match &policy.roots {
            None => None,
            Some(roots) => Some((connector(roots)?, server_name(&policy.host)?)),
        };
        let secret = policy.password.as_ref().map_or(&[][..], |password| password.expose());
        let key = [IDENTITY_CONTEXT, secret].concat();
        let key = digest::digest(&digest::SHA256, &key);
        Ok(Self {
            policy: policy.clone(),
            tls,
            identities: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
        })
    }

    /// What it was made from.
    pub const fn policy(&self) -> &StorePolicy {
        &self.policy
    }

    /// Connects, and sees that the server does what will be asked of it, in time.
    pub(super) async fn open(&self) -> Result<Connection, StoreError> {
        let connected = time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let mut connection = connected.map_err(|_| StoreError::TimedOut)??;
        // Before it may take long commands: a server that wants a password says so here.
        let ping = redis::cmd("PING");
        let greeted = time::timeout(CONNECT_TIMEOUT, ask(connection.redis(), &ping)).await;
        greeted.map_err(|_| StoreError::TimedOut)??;
        // The first call may have to send the script.
        for _ in 0..2 {
            let tried = time::timeout(self.policy.timeout, charge::probe(connection.redis())).await;
            tried.map_err(|_| StoreError::TimedOut)??;
        }
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, StoreError> {
        let address = (self.policy.host.as_str(), self.policy.port);
        let socket = TcpStream::connect(address).await?;
        // Only latency is lost without it.
        socket.set_nodelay(true).ok();
        match &self.tls {
            None => self.greet(socket).await,
            Some((tls, name)) => self.greet(tls.connect(name.clone(), socket).await?).await,
        }
    }

    async fn greet<S>(&self, stream: S) -> Result<Connection, StoreError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name()
            .set_db(self.policy.database.into());
        if let Some(user) = &self.policy.user {
            info = info.set_username(user);
        }
        if let Some(password) = &self.policy.password {
            let password = std::str::from_utf8(password.expose());
            info = info.set_password(
                password.map_err(|_| StoreError::Refused("the password is no text".to_owned()))?,
            );
        }
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
        let (redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let ended = Rc::new(Notify::new());
        let tell = Rc::clone(&ended);
        let driver = tokio::task::spawn_local(async move {
            driver.await;
            tell.notify_one();
        });
        Ok(Connection { redis, ended, driver: driver.abort_handle() })
    }
}

fn connector(roots: &[Vec<u8>]) -> Result<TlsConnector, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().map(|root| CertificateDer::from(&**root)));
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is no name that a certificate could have"))
}

/// A connection, closed when dropped.
pub(super) struct Connection {
    redis: MultiplexedConnection,
    /// Notified once, when the connection is over.
    ended: Rc<Notify>,
    driver: AbortHandle,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn redis(&mut self) -> &mut MultiplexedConnection {
        &mut self.redis
    }

    /// Another handle to the same connection.
    pub(super) fn handle(&self) -> (MultiplexedConnection, Rc<Notify>) {
        (self.redis.clone(), Rc::clone(&self.ended))
    }

    pub(super) fn is(&self, ended: &Rc<Notify>) -> bool {
        Rc::ptr_eq(&self.ended, ended)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
        self.ended.notify_one();
    }
}
