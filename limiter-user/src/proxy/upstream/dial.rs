//! From a server to a connection: resolved, connected, greeted.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{server::Server, wire::Wire};
use crate::policy::upstream::Scheme;

/// Longest head of an answer.
const MAX_HEAD_BYTES: usize = 65_536;

/// Bytes read ahead of a slow client, for each connection.
const READ_BUFFER_BYTES: usize = 65_536;

/// Bytes in flight on one stream, and on all of a connection: a stream that nobody reads holds up
/// no other.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// One address of several gets no less time than this.
const LEAST_TIME: Duration = Duration::from_millis(250);

/// How often a connection with requests on it is asked whether it lives, and for how long.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Connects within `limit`, trying every address. Whether HTTP/2 is spoken, too.
pub(super) async fn dial(
    server: &Server,
    http1_only: bool,
    limit: Duration,
) -> io::Result<(Wire, bool)> {
    let mut addresses = server.addresses.in_turn();
    if addresses.is_empty() {
        server.addresses.replace(resolve(server).await?);
        addresses = server.addresses.in_turn();
    }
    let socket = connect(&addresses, limit).await?;
    // Only latency is lost without it.
    drop(socket.set_nodelay(true));
    let Some(tls) = &server.tls else {
        return Ok((Wire::Plain(socket), server.identity.server.scheme == Scheme::H2c));
    };
    let wire = Wire::Tls(Box::new(tls.connect(socket, http1_only).await?));
    let is_h2 = wire.is_h2();
    Ok((wire, is_h2))
}

/// What the server's name stands for now.
pub(super) async fn resolve(server: &Server) -> io::Result<Vec<SocketAddr>> {
    let policy = &server.identity.server;
    let found = tokio::net::lookup_host((policy.host.as_str(), policy.port)).await?;
    Ok(found.collect())
}

async fn connect(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    for address in addresses {
        match tokio::time::timeout(share.max(LEAST_TIME), TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Begins HTTP/1.1.
pub(super) async fn http1<B>(
    wire: Wire,
) -> hyper::Result<(http1::SendRequest<B>, http1::Connection<TokioIo<Wire>, B>)>
where
    B: http_body::Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    http1::Builder::new()
        // Heads without bodies, mostly: gathering them costs more than copying the few that have.
        .writev(false)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(READ_BUFFER_BYTES)
        .handshake(TokioIo::new(wire))
        .await
}

/// Begins HTTP/2, and goes on with it on this thread until it ends. `tell` gets to know how many
/// requests at a time the server takes, and is dropped at the end.
pub(super) async fn http2<B>(
    wire: Wire,
    tell: impl Fn(usize) + 'static,
) -> hyper::Result<http2::SendRequest<B>>
where
    B: http_body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, mut connection) = http2::Builder::new(Here)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(65_536)
        .max_send_buf_size(READ_BUFFER_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(wire))
        .await?;
    tokio::task::spawn_local(async move {
        // Its errors are those of the requests in flight, which are told.
        let all = poll_fn(|context| {
            let ended = Pin::new(&mut connection).poll(context);
            tell(connection.current_max_send_streams());
            ended
        });
        drop(all.await);
    });
    Ok(sender)
}
