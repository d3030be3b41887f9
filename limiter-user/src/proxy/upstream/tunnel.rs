//! Bytes of another protocol between a client and a server, both ways, until either is done.
//!
//! Bounded: two buffers, ended when nothing passes for long, by a ban, and with the drain.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{lane::Open, pool::Lease, wire::Wire};
use crate::{
    limits::concurrency::Permit,
    proxy::watch::{Phase, Watch},
};

/// For how long nothing may pass when one side has ended.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// The server's end, until the client's is free.
#[derive(Debug)]
pub(in crate::proxy) struct Tunnel {
    pub(super) wire: Wire,
    /// Came from the server behind its 101.
    pub(super) unread: Bytes,
    /// For how long nothing may pass.
    pub(super) idle: Duration,
    pub(super) lease: Lease,
    pub(super) open: Open,
    /// Of the request that it began with, among those under way.
    pub(in crate::proxy) places: Vec<Permit>,
}

impl Tunnel {
    /// Passes bytes until both sides have ended; `unread` came from the client behind its request.
    pub(in crate::proxy) async fn run<C>(self, watch: &Watch, client: &mut C, unread: Bytes)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { mut wire, unread: from_server, idle, lease, open, places } = self;
        watch.enter(Phase::Response, idle);
        let idle = &Cell::new(idle);
        let mut client = End { stream: client, before: unread, watch, idle };
        let mut server = End { stream: &mut wire, before: from_server, watch, idle };
        // However it ended, it is over.
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        drop((lease, open, places));
    }
}

/// One end: what came before is read first, and whatever passes moves the deadline.
struct End<'a, S> {
    stream: &'a mut S,
    before: Bytes,
    watch: &'a Watch,
    idle: &'a Cell<Duration>,
}

impl<S: AsyncRead + Unpin> AsyncRead for End<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            ready!(Pin::new(&mut *self.stream).poll_read(context, buffer))?;
        } else {
            let count = self.before.len().min(buffer.remaining());
            buffer.put_slice(&self.before.split_to(count));
        }
        self.watch.set_deadline(self.idle.get());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for End<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The other end is done. This one may finish what it says, and not stay for ever.
        self.idle.set(self.idle.get().min(HALF_CLOSED));
        self.watch.set_deadline(self.idle.get());
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
