//! An HTTP/1.1 client that sends exactly the bytes a test wants and reads exactly one answer.
//!
//! It never retries, follows, or corrects anything.

mod message;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, recv,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use self::message::parse_head;
pub use self::message::{Failure, Response, chunked, request};

/// How long a client waits for a connection, to send and to receive, unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head or chunk line, and longest body read: beyond it a test fails instead of swapping.
const MAX_LINE_BYTES: usize = 1 << 20;
const MAX_BODY_BYTES: usize = 256 << 20;

/// One request on a connection of its own, from this thread's namespace.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Response, Failure> {
    let mut connection = Connection::open(address)?;
    connection.send(bytes)?;
    connection.response()
}

/// Like [`exchange`] from a given source address.
pub fn exchange_from(
    source: IpAddr,
    address: SocketAddr,
    bytes: &[u8],
) -> Result<Response, Failure> {
    let mut connection = Connection::open_from(Some(source), address, TIMEOUT)?;
    connection.send(bytes)?;
    connection.response()
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Received and not yet consumed: what came after the last answer.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects over TCP from this thread's namespace.
    pub fn open(address: SocketAddr) -> Result<Self, Failure> {
        Self::open_from(None, address, TIMEOUT)
    }

    /// Connects over TCP from a source address of this thread's namespace; `timeout` holds for
    /// connecting, and for each sending and receiving after it.
    pub fn open_from(
        source: Option<IpAddr>,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(io::Error::from)?;
        let limit = TimeVal::microseconds(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::SendTimeout, &limit).map_err(io::Error::from)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit).map_err(io::Error::from)?;
        if let Some(source) = source {
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).map_err(io::Error::from)?;
            let source = SockaddrStorage::from(SocketAddr::new(source, 0));
            bind(socket.as_raw_fd(), &source).map_err(io::Error::from)?;
        }
        connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).map_err(io::Error::from)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Self { stream: Stream::Tcp(stream), buffer: Vec::new() })
    }

    /// Connects to a Unix socket.
    pub fn open_unix(path: &Path, timeout: Duration) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream: Stream::Unix(stream), buffer: Vec::new() })
    }

    /// This end's address; panics on a Unix socket.
    pub fn local_address(&self) -> SocketAddr {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().expect("a connected socket has one"),
            Stream::Unix(_) => panic!("a Unix socket has no address"),
        }
    }

    /// Ends it at once for both sides (RST); panics on a Unix socket.
    pub fn reset(self) {
        let Stream::Tcp(stream) = &self.stream else { panic!("a Unix socket is only closed") };
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(stream, sockopt::Linger, &linger).expect("a connected socket takes it");
    }

    /// Sets the timeout of each sending and receiving from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        let timeout = Some(timeout);
        let set = match &self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
        };
        set.expect("a timeout that is not zero");
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes)?,
            Stream::Unix(stream) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// Says that nothing more will be sent (FIN).
    pub fn finish(&self) {
        let ended = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        // The peer may have closed first.
        drop(ended);
    }

    /// Reads one answer with its body. Interim answers (1xx) are answers of their own.
    pub fn response(&mut self) -> Result<Response, Failure> {
        self.read_response(false)
    }

    /// Reads the answer to a HEAD request: it has no body whatever its head says.
    pub fn response_without_body(&mut self) -> Result<Response, Failure> {
        self.read_response(true)
    }

    /// Sends a request and reads its answer.
    pub fn exchange(&mut self, bytes: &[u8]) -> Result<Response, Failure> {
        self.send(bytes)?;
        self.response()
    }

    /// Everything until the peer closes.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(Failure::Closed(all)) => return Ok(all),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Everything up to and with the first `end`.
    pub fn read_through(&mut self, end: &[u8]) -> Result<Vec<u8>, Failure> {
        self.take_through(end)
    }

    /// Waits up to `timeout` for the peer to close or reset; what came before does not matter.
    pub fn is_closed_within(&mut self, timeout: Duration) -> bool {
        self.set_timeout(timeout);
        let closed = matches!(self.read_to_end(), Ok(_) | Err(Failure::Reset));
        self.set_timeout(TIMEOUT);
        closed
    }

    /// Whether the peer has closed or reset by now, without having sent anything.
    pub fn is_closed(&mut self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let descriptor = match &self.stream {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        match recv(descriptor, &mut [0; 1], flags) {
            Ok(count) => count == 0,
            Err(error) => error != Errno::EAGAIN,
        }
    }

    fn read_response(&mut self, without_body: bool) -> Result<Response, Failure> {
        let head = self.take_through(b"\r\n\r\n")?;
        let mut response = parse_head(head)?;
        let chunked = response
            .header_values("transfer-encoding")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("chunked"));
        let bodiless = matches!(response.status, 100..=199 | 204 | 304);
        if without_body || bodiless {
        } else if chunked {
            response.body = self.take_chunks()?;
        } else if let Some(length) = response.header("content-length") {
            let length = length
                .parse()
                .map_err(|_| Failure::Malformed(format!("content-length {length}")))?;
            response.body = self.take(length)?;
        } else {
            response.body = self.read_to_end()?;
        }
        Ok(response)
    }

    fn take_chunks(&mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.take_through(b"\r\n")?;
            let text = String::from_utf8_lossy(&line);
            let size = text.trim_end().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16)
                .map_err(|_| Failure::Malformed(format!("chunk size {text:?}")))?;
            if size == 0 {
                while self.take_through(b"\r\n")? != b"\r\n" {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(Failure::Malformed("a chunk without its end".to_owned()));
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        if length > MAX_BODY_BYTES {
            return Err(Failure::Malformed(format!("{length} bytes are too many")));
        }
        while self.buffer.len() < length {
            self.fill()?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>, Failure> {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return self.take(at + end.len());
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(Failure::Malformed("an endless head".to_owned()));
            }
            self.fill()?;
        }
    }

    /// Receives once. At the end of the stream, yields what is left as [`Failure::Closed`].
    fn fill(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 16 << 10];
        let count = loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut bytes),
                Stream::Unix(stream) => stream.read(&mut bytes),
            };
            // A socket with a timeout is not read on after a signal, such as a debugger's.
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 {
            return Err(Failure::Closed(std::mem::take(&mut self.buffer)));
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}
