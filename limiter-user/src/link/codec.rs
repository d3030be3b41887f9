//! Frames of [`super`] on a Unix stream socket, for tokio's current-thread runtime.
//!
//! In: messages and descriptors; out: the same on the other side. A frame is refused before it is
//! read if its length is beyond the bound, and read exactly, so that descriptors belong to the
//! frame they came with. Never blocks the runtime: a slow peer only makes `send` wait.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    rc::Rc,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

use super::{Hello, MAX_FRAME_BYTES, PROTOCOL_VERSION, descriptors};

const LENGTH_BYTES: usize = 4;

/// Memory that a frame takes before its bytes are there.
const GROWTH_BYTES: usize = 64 << 10;

/// One end of the link.
#[derive(Debug)]
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
}

/// The sending half.
#[derive(Debug)]
pub struct LinkSender {
    socket: Rc<UnixStream>,
}

/// The receiving half. Descriptors that arrive beside a frame are returned with it.
#[derive(Debug)]
pub struct LinkReceiver {
    socket: Rc<UnixStream>,
    frame: Vec<u8>,
    filled: usize,
    descriptors: Vec<OwnedFd>,
}

impl Link {
    /// Takes over one end of a connected pair; to be called within a runtime.
    pub fn from_std(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::from_tokio(UnixStream::from_std(socket)?))
    }

    /// Takes over an accepted connection.
    pub fn from_tokio(socket: UnixStream) -> Self {
        let socket = Rc::new(socket);
        Self {
            sender: LinkSender { socket: Rc::clone(&socket) },
            receiver: LinkReceiver {
                socket,
                frame: vec![0; LENGTH_BYTES],
                filled: 0,
                descriptors: Vec::new(),
            },
        }
    }

    /// Sends one frame; see [`LinkSender::send`].
    pub async fn send<T: Serialize>(
        &mut self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.sender.send(message, descriptors).await
    }

    /// Receives one frame; see [`LinkReceiver::recv`].
    pub async fn recv<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receiver.recv().await
    }

    /// Both halves, for separate tasks of one thread.
    pub fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
    }
}

impl LinkSender {
    /// Sends one frame with `descriptors` beside it, waiting as long as the peer does not read.
    ///
    /// Not to be cancelled: a frame half sent makes the link unusable. `InvalidInput` if the
    /// message is longer than [`MAX_FRAME_BYTES`] or has too many descriptors.
    pub async fn send<T: Serialize>(
        &mut self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = encode(message)?;
        if descriptors.len() > descriptors::MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more descriptors than a frame may carry",
            ));
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let beside = if sent == 0 { descriptors } else { &[] };
            sent += self
                .socket
                .async_io(Interest::WRITABLE, || {
                    descriptors::send(self.socket.as_fd(), &bytes[sent..], beside)
                })
                .await?;
        }
        Ok(())
    }
}

impl LinkReceiver {
    /// Receives one frame and its descriptors; `None` when the peer closed between frames.
    ///
    /// May be cancelled: what was read so far is kept. `InvalidData` for a frame that is too
    /// long, cut off or not a `T`; the link is unusable then.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let wanted = match progress(&self.frame[..self.filled])? {
                Progress::Message(message) => {
                    self.frame.truncate(LENGTH_BYTES);
                    self.frame.shrink_to(GROWTH_BYTES);
                    self.filled = 0;
                    return Ok(Some((message, std::mem::take(&mut self.descriptors))));
                }
                Progress::Needs(wanted) => wanted,
            };
            // Grown as bytes arrive, so that a length alone reserves no memory.
            self.frame.resize(wanted.min(self.filled + GROWTH_BYTES), 0);
            let (socket, unread, owned) =
                (&self.socket, &mut self.frame[self.filled..], &mut self.descriptors);
            let count = socket
                .async_io(Interest::READABLE, || {
                    descriptors::receive(socket.as_fd(), unread, owned)
                })
                .await?;
            if count == 0 {
                return if self.filled == 0 {
                    Ok(None)
                } else {
                    Err(invalid("the peer closed in the middle of a frame"))
                };
            }
            self.filled += count;
            if self.descriptors.len() > descriptors::MAX_DESCRIPTORS {
                return Err(invalid("more descriptors than a frame may carry"));
            }
        }
    }
}

/// How far bytes of the link have come.
#[derive(Debug, PartialEq)]
pub enum Progress<T> {
    /// So many bytes in all are needed for the next step.
    Needs(usize),
    /// They are one frame.
    Message(T),
}

/// What these bytes, from the beginning of a frame and no further than its end, come to.
/// `InvalidData` for a length out of bounds, or a body that is not a `T`.
pub fn progress<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<Progress<T>> {
    if bytes.len() < LENGTH_BYTES {
        return Ok(Progress::Needs(LENGTH_BYTES));
    }
    let wanted = LENGTH_BYTES + frame_bytes(bytes)?;
    if bytes.len() < wanted {
        return Ok(Progress::Needs(wanted));
    }
    decode(&bytes[LENGTH_BYTES..]).map(Progress::Message)
}

impl Hello {
    /// This process, speaking [`PROTOCOL_VERSION`].
    pub fn of_this_process(build: impl Into<String>) -> Self {
        Self { protocol: PROTOCOL_VERSION, build: build.into(), pid: std::process::id() }
    }

    /// Whether both ends speak the same version of everything beyond the hand-over.
    pub fn is_compatible(&self) -> bool {
        self.protocol == PROTOCOL_VERSION
    }
}

/// Length and body of one frame. `InvalidInput` if the body would be longer than
/// [`MAX_FRAME_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(message, vec![0; LENGTH_BYTES])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let body = bytes.len() - LENGTH_BYTES;
    match u32::try_from(body) {
        Ok(length) if body <= MAX_FRAME_BYTES => {
            bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            Ok(bytes)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("frame of {body} bytes; at most {MAX_FRAME_BYTES}"),
        )),
    }
}

/// Length of the body that `frame` announces, checked against the bound.
fn frame_bytes(frame: &[u8]) -> io::Result<usize> {
    let length =
        frame.first_chunk::<LENGTH_BYTES>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    if length == 0 || length > MAX_FRAME_BYTES {
        return Err(invalid("frame length out of bounds"));
    }
    Ok(length)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(invalid("bytes after the message")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::link::{FromProxy, ToProxy};

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn pair() -> (StdUnixStream, StdUnixStream) {
        StdUnixStream::pair().unwrap()
    }

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        run(async {
            let (left, right) = pair();
            let mut left = Link::from_std(left).unwrap();
            let mut right = Link::from_std(right).unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let listeners = ToProxy::Listeners(vec![address.into()]);
            let hello = ToProxy::Hello(Hello::of_this_process("test"));
            left.send(&hello, &[]).await.unwrap();
            left.send(&listeners, &[listener.as_fd()]).await.unwrap();
            left.send(&ToProxy::Drain, &[]).await.unwrap();
            let (message, descriptors) = right.recv::<ToProxy>().await.unwrap().unwrap();
            assert_eq!(message, hello);
            assert!(descriptors.is_empty());
            let (message, mut descriptors) = right.recv::<ToProxy>().await.unwrap().unwrap();
            assert_eq!(message, listeners);
            let copy = std::net::TcpListener::from(descriptors.pop().unwrap());
            assert_eq!(copy.local_addr().unwrap(), address);
            let (message, descriptors) = right.recv::<ToProxy>().await.unwrap().unwrap();
            assert_eq!(message, ToProxy::Drain);
            assert!(descriptors.is_empty());
            drop(left);
            assert!(right.recv::<ToProxy>().await.unwrap().is_none());
        });
    }

    #[test]
    fn a_large_frame_crosses_a_small_socket_buffer() {
        run(async {
            let (left, right) = pair();
            let mut left = Link::from_std(left).unwrap();
            let mut right = Link::from_std(right).unwrap();
            let build = "x".repeat(3 << 20);
            let message = FromProxy::Hello(Hello::of_this_process(build));
            let (sent, received) =
                tokio::join!(left.send(&message, &[]), right.recv::<FromProxy>());
            sent.unwrap();
            assert_eq!(received.unwrap().unwrap().0, message);
        });
    }

    fn receive_raw(bytes: &[u8]) -> io::Result<Option<(ToProxy, Vec<OwnedFd>)>> {
        run(async {
            let (mut left, right) = pair();
            left.write_all(bytes).unwrap();
            drop(left);
            Link::from_std(right).unwrap().recv().await
        })
    }

    #[test]
    fn bad_frames_are_errors() {
        let good = encode(&ToProxy::Drain).unwrap();
        assert!(receive_raw(&good).unwrap().is_some());
        assert!(receive_raw(&good[..good.len() - 1]).is_err(), "truncated");
        assert!(receive_raw(&good[..2]).is_err(), "truncated length");
        let oversized = u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_le_bytes();
        assert!(receive_raw(&oversized).is_err(), "oversized");
        assert!(receive_raw(&0_u32.to_le_bytes()).is_err(), "empty");
        assert!(receive_raw(&[1, 0, 0, 0, 0xff]).is_err(), "garbage");
        let mut trailing = good;
        trailing[0] += 1;
        trailing.push(0);
        assert!(receive_raw(&trailing).is_err(), "bytes after the message");
        assert!(receive_raw(&[]).unwrap().is_none());
    }

    #[test]
    fn an_oversized_message_is_not_sent() {
        let message = FromProxy::Hello(Hello::of_this_process("x".repeat(MAX_FRAME_BYTES + 1)));
        assert_eq!(encode(&message).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
