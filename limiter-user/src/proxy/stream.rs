//! Sockets as hyper sees them: the client's tells its connection when bytes come; both send what
//! is small in one piece.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    registry::{Connection, Source},
    transport::{OtherSide, Transport},
};

/// Up to this many bytes in several parts are copied together: one `send` of one part costs less
/// than a `writev` of a head and a short body.
const TOGETHER_BYTES: usize = 2048;

/// Sends what it can of `parts`.
pub(super) fn poll_write_parts<W: AsyncWrite>(
    socket: Pin<&mut W>,
    context: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [part] = parts {
        return socket.poll_write(context, part);
    }
    let mut together = [const { MaybeUninit::uninit() }; TOGETHER_BYTES];
    let mut together = ReadBuf::uninit(&mut together);
    for part in parts {
        if part.len() > together.remaining() {
            return socket.poll_write_vectored(context, parts);
        }
        together.put_slice(part);
    }
    socket.poll_write(context, together.filled())
}

/// A client's transport and its connection's state.
#[derive(Debug)]
pub(super) struct ClientStream {
    pub(super) transport: Transport,
    connection: Rc<Connection>,
    /// Bytes that were read before it was known which version of HTTP they are of.
    ahead: Vec<u8>,
    /// Whether what is read passes the framing of HTTP/1.
    frames: bool,
}

/// Most bytes read before the version is known: a whole head, usually.
const AHEAD_BYTES: usize = 2048;

impl ClientStream {
    pub(super) fn new(transport: Transport, connection: Rc<Connection>) -> Self {
        Self { transport, connection, ahead: Vec::new(), frames: false }
    }

    /// Waits for bytes and keeps them for the next read; how many came.
    pub(super) async fn read_ahead(&mut self) -> io::Result<usize> {
        // On the stack only while there is something to read.
        poll_fn(|context| {
            let mut bytes = [MaybeUninit::uninit(); AHEAD_BYTES];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.transport).poll_read(context, &mut bytes))?;
            self.ahead.extend_from_slice(bytes.filled());
            Poll::Ready(Ok(bytes.filled().len()))
        })
        .await
    }

    /// What is read from now on is HTTP/1.
    pub(super) fn frame(&mut self) {
        self.frames = true;
    }

    /// What was read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { transport, connection, ahead, frames } = &mut *self;
        let mut incoming = Incoming { transport, ahead, context };
        if *frames { connection.poll_passed(buffer, &mut incoming) } else { incoming.read(buffer) }
    }
}

/// What a client's bytes are read from, for one look at it.
struct Incoming<'a, 'c, 'w> {
    transport: &'a mut Transport,
    ahead: &'a mut Vec<u8>,
    context: &'c mut Context<'w>,
}

impl Source for Incoming<'_, '_, '_> {
    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut *self.transport).poll_read(self.context, buffer);
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        if self.ahead.is_empty() {
            *self.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn other_side(&mut self) -> OtherSide {
        self.transport.socket().other_side()
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        self.transport.send_now(bytes)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.set_unflushed(true);
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection.set_unflushed(true);
        Pin::new(&mut self.transport).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all that it holds.
        ready!(Pin::new(&mut self.transport).poll_flush(context))?;
        self.connection.set_unflushed(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An answer is to come that hyper does not know of.
        if self.connection.framer().violation().is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.transport).poll_shutdown(context)
    }
}
