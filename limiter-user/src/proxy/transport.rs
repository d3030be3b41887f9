//! What carries a client's bytes: TCP or a Unix socket, with or without TLS.
//!
//! In: an accepted socket; out: bytes as HTTP sees them. Bytes that came behind a PROXY protocol
//! header are read first.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, send};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use super::stream::poll_write_parts;
use crate::sys;

/// How long, and in how many reads, a client whose connection was ended here may still send.
pub(super) const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 128;

/// Most bytes read to see the first one: a `ClientHello`, usually.
const PEEK_BYTES: usize = 2048;

/// What is known of a connection's other side without reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum OtherSide {
    /// More may come.
    Open,
    /// It sends nothing more, and may still read.
    Closed,
    /// It was reset: nobody reads.
    Gone,
}

/// An accepted socket.
#[derive(Debug)]
pub(super) struct Socket {
    kind: Kind,
    /// What was read and is still to be given out.
    unread: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn tcp(socket: TcpStream) -> Self {
        Self { kind: Kind::Tcp(socket), unread: Vec::new() }
    }

    pub(super) fn unix(socket: UnixStream) -> Self {
        Self { kind: Kind::Unix(socket), unread: Vec::new() }
    }

    /// Gives these bytes out before any that are still to be read.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.unread.is_empty(), "bytes were put back twice");
        self.unread = bytes;
    }

    /// Sends as much as the socket takes without waiting, also when it was accepted just now, and
    /// the runtime does not know it as writable yet. Whether that was all.
    pub(super) fn send_now(&self, bytes: &[u8]) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.descriptor().as_raw_fd(), bytes, flags) == Ok(bytes.len())
    }

    /// Also behind bytes that nobody has read.
    pub(super) fn other_side(&self) -> OtherSide {
        // What cannot be asked is found when it is read or written.
        match sys::other_side(self.descriptor()) {
            (_, true) => OtherSide::Gone,
            (true, false) => OtherSide::Closed,
            (false, false) => OtherSide::Open,
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(socket) => socket.as_fd(),
            Kind::Unix(socket) => socket.as_fd(),
        }
    }

    /// Drops what is not sent yet, and resets the connection, when it is closed.
    pub(super) fn set_zero_linger(&self) {
        if let Kind::Tcp(socket) = &self.kind {
            // Then it is closed as others are.
            drop(socket.set_zero_linger());
        }
    }

    /// The next byte, which stays to be read; `None` at the end.
    pub(super) async fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.unread.is_empty() {
            let read = poll_fn(|context| {
                // On the stack only while there is something to read.
                let mut bytes = [MaybeUninit::uninit(); PEEK_BYTES];
                let mut bytes = ReadBuf::uninit(&mut bytes);
                ready!(Pin::new(&mut *self).poll_read(context, &mut bytes))?;
                Poll::Ready(Ok::<_, io::Error>(bytes.filled().to_vec()))
            });
            self.unread = read.await?;
        }
        Ok(self.unread.first().copied())
    }

    /// Closes a socket that an answer was sent on without losing that: one that is closed with
    /// bytes unread is reset, and the client may never see what was sent before (RFC 9112, 9.6).
    /// Bounded in time and bytes.
    pub(super) async fn linger(mut self) {
        let drained = async {
            if self.shutdown().await.is_ok() {
                self.discard().await;
            }
        };
        drop(tokio::time::timeout(LINGER, drained).await);
    }

    /// Reads and drops what comes, in a bounded number of reads.
    pub(super) async fn discard(&mut self) {
        let mut unwanted = [0; 2048];
        for _ in 0..LINGER_READS {
            if !matches!(self.read(&mut unwanted).await, Ok(1..)) {
                return;
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
            if self.unread.is_empty() {
                self.unread = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.kind {
            Kind::Tcp(socket) => Pin::new(socket).poll_read(context, buffer),
            Kind::Unix(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Kind::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(socket) => Pin::new(socket).poll_write_vectored(context, parts),
            Kind::Unix(socket) => Pin::new(socket).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is held back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Kind::Unix(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

/// A socket, and how it is spoken on.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// The socket below.
    pub(super) fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }

    /// Sends as much as the socket takes without waiting; whether that was all. Only while nobody
    /// waits to send.
    pub(super) fn send_now(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Plain(socket) => socket.send_now(bytes),
            Self::Tls(stream) => {
                let mut context = Context::from_waker(Waker::noop());
                let mut stream = Pin::new(&mut **stream);
                let taken = stream.as_mut().poll_write(&mut context, bytes);
                // What is not on its way is with the library, which sends it first.
                drop(stream.poll_flush(&mut context));
                matches!(taken, Poll::Ready(Ok(count)) if count == bytes.len())
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => match ready!(Pin::new(stream).poll_read(context, buffer)) {
                // A peer that closes without saying so over TLS: HTTP knows where messages end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                result => Poll::Ready(result),
            },
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => poll_write_parts(Pin::new(socket), context, parts),
            // What is small becomes one record.
            Self::Tls(stream) => poll_write_parts(Pin::new(stream), context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
