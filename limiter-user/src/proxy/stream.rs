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

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::registry::Connection;

/// Up to this many bytes in several parts are copied together: one `send` of one part costs less
/// than a `writev` of a head and a short body.
const TOGETHER_BYTES: usize = 2048;

/// Sends what it can of `parts`.
pub(super) fn poll_write_parts(
    socket: Pin<&mut TcpStream>,
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

/// A client's socket and its connection's state.
#[derive(Debug)]
pub(super) struct ClientStream {
    pub(super) socket: TcpStream,
    connection: Rc<Connection>,
    /// Bytes that were read before it was known which version of HTTP they are of.
    ahead: Vec<u8>,
    /// Whether the connection keeps the heads that are read (HTTP/1).
    keeps_heads: bool,
}

/// Most bytes read before the version is known: a whole head, usually.
const AHEAD_BYTES: usize = 2048;

impl ClientStream {
    pub(super) fn new(socket: TcpStream, connection: Rc<Connection>) -> Self {
        Self { socket, connection, ahead: Vec::new(), keeps_heads: false }
    }

    /// Waits for bytes and keeps them for the next read; how many came.
    pub(super) async fn read_ahead(&mut self) -> io::Result<usize> {
        // On the stack only while there is something to read.
        poll_fn(|context| {
            let mut bytes = [MaybeUninit::uninit(); AHEAD_BYTES];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut bytes))?;
            self.ahead.extend_from_slice(bytes.filled());
            Poll::Ready(Ok(bytes.filled().len()))
        })
        .await
    }

    /// What is read from now on is HTTP/1.
    pub(super) fn keep_heads(&mut self) {
        self.keeps_heads = true;
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
        let before = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
        }
        let bytes = &buffer.filled()[before..];
        if self.keeps_heads && !bytes.is_empty() {
            self.connection.received(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_parts(Pin::new(&mut self.socket), context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
