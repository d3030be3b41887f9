//! An upstream server that records every request byte for byte and answers as a test scripts it.
//!
//! Which behaviour answers a request: the first of the queue, else the path's, else the default.

mod connection;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{Shutdown as SocketShutdown, shutdown};

use crate::{netns::Namespace, wait::eventually};

/// Most connections at a time; further ones are closed at once and counted as refused.
pub const MAX_CONNECTIONS: usize = 1024;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// With status, header fields and a body of known length; keeps the connection.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// 200 with these chunks, each sent on its own after a pause.
    Chunked(Vec<Vec<u8>>, Duration),
    /// 200 with the request's body (of known length) and its content type.
    Echo,
    /// 200 with the request's body, chunk by chunk while it arrives.
    EchoStreamed,
    /// Reads the request, then nothing until the peer closes or the origin stops.
    Stall,
    /// Answers with this after a pause.
    Delayed(Duration, Box<Self>),
    /// 200 announcing so many bytes, then these bytes, then closes: an answer cut short.
    CloseMidBody(usize, Vec<u8>),
    /// Closes after the request without an answer.
    CloseBeforeAnswer,
    /// Resets the connection after the request (RST).
    Reset,
    /// Answers after the head, without reading the body, and closes.
    AnswerBeforeBody(u16),
    /// These bytes as they are, then keeps the connection.
    Raw(Vec<u8>),
    /// These bytes as they are, then closes.
    RawThenClose(Vec<u8>),
    /// These bytes after the head, then reads the body.
    Early(Vec<u8>),
    /// Reads no more after the head.
    Deaf,
    /// These bytes, then everything that comes back as it came, until the peer closes or has sent
    /// something that ends in `bye`.
    Tunnel(Vec<u8>),
}

impl Behaviour {
    /// 200 with this text.
    pub fn ok(body: &str) -> Self {
        let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
        Self::Answer(200, headers, body.as_bytes().to_vec())
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }
}

/// A request as received.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Number of the connection, from 0.
    pub connection: u64,
    /// Number of the request on its connection, from 0.
    pub nth: u64,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Request line, header fields and the empty line, as received.
    pub head: Vec<u8>,
    /// The body as received, with its chunk framing. Incomplete where `complete` is false.
    pub raw_body: Vec<u8>,
    /// The body without framing.
    pub body: Vec<u8>,
    /// Whether the whole body came.
    pub complete: bool,
}

impl Recorded {
    /// The request line.
    pub fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.head);
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// The method.
    pub fn method(&self) -> String {
        self.line().split(' ').next().unwrap_or_default().to_owned()
    }

    /// The target as sent, with its query.
    pub fn target(&self) -> String {
        self.line().split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// All values of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<String> {
        connection::headers(&self.head)
            .into_iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// The value of a header that is there at most once; panics if it is there twice.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut values = self.header_values(name).into_iter();
        let first = values.next();
        assert!(values.next().is_none(), "{name} is there twice");
        first
    }
}

/// The server. Dropping it closes every connection and ends its threads.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    listener: TcpListener,
    stopping: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    default: Behaviour,
    queue: VecDeque<Behaviour>,
    paths: BTreeMap<String, Behaviour>,
    recorded: Vec<Recorded>,
    live: BTreeMap<u64, TcpStream>,
}

impl Origin {
    /// Listens on a free loopback port of a namespace; answers 200 `origin` until told otherwise.
    pub fn start(namespace: &Namespace) -> Self {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        namespace.run(|| Self::start_here(loopback))
    }

    /// Listens on `address` of a namespace.
    pub fn start_at(namespace: &Namespace, address: SocketAddr) -> Self {
        namespace.run(|| Self::start_here(address))
    }

    /// Listens on `address` of the namespace that this thread is in.
    pub fn start_here(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address)
            .unwrap_or_else(|error| panic!("origin cannot listen on {address}: {error}"));
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            listener,
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            state: Mutex::new(State {
                default: Behaviour::ok("origin"),
                queue: VecDeque::new(),
                paths: BTreeMap::new(),
                recorded: Vec::new(),
                live: BTreeMap::new(),
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        Self { address, shared, accepting: Some(thread::spawn(move || accept(&accepting))) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS:PORT`, as a configuration takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers everything that nothing else is set for.
    pub fn by_default(&self, behaviour: Behaviour) {
        self.shared.state().default = behaviour;
    }

    /// Answers requests whose target is `path`, without its query.
    pub fn on(&self, path: &str, behaviour: Behaviour) {
        self.shared.state().paths.insert(path.to_owned(), behaviour);
    }

    /// Answers the next request; several are used in order.
    pub fn next(&self, behaviour: Behaviour) {
        self.shared.state().queue.push_back(behaviour);
    }

    /// Requests so far, in the order in which their bodies ended.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().recorded.clone()
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        self.shared.state().recorded.len()
    }

    /// Forgets the requests so far and returns them.
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.shared.state().recorded)
    }

    /// Waits for exactly one request since the last take, and takes it.
    #[track_caller]
    pub fn take_one(&self, timeout: Duration) -> Recorded {
        eventually(timeout, "a request at the origin", || self.count() > 0);
        let mut requests = self.take();
        assert_eq!(requests.len(), 1, "one request: {requests:?}");
        requests.remove(0)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// Connections refused at [`MAX_CONNECTIONS`].
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Acquire)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.state().live.len()
    }

    /// Closes every open connection, as a restarting server would; goes on accepting.
    pub fn close_connections(&self) {
        for stream in self.shared.state().live.values() {
            // The peer may have closed first.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // On Linux this ends a blocked accept().
        shutdown(self.shared.listener.as_raw_fd(), SocketShutdown::Both).ok();
        self.close_connections();
        self.shared.changed.notify_all();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

impl Shared {
    /// A panic of one connection's thread must not hide what the others recorded.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn behaviour(&self, path: &str) -> Behaviour {
        let mut state = self.state();
        state
            .queue
            .pop_front()
            .or_else(|| state.paths.get(path).cloned())
            .unwrap_or_else(|| state.default.clone())
    }

    /// Drops the duplicate of a connection's socket.
    fn forget(&self, connection: u64) {
        self.state().live.remove(&connection);
    }

    /// Sleeps for `duration` or until the origin stops.
    fn pause(&self, duration: Duration) {
        let state = self.state();
        drop(
            self.changed
                .wait_timeout_while(state, duration, |_| !self.is_stopping())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

fn accept(shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((stream, peer)) = shared.listener.accept() {
        if shared.is_stopping() {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= MAX_CONNECTIONS {
            shared.refused.fetch_add(1, Ordering::AcqRel);
            continue;
        }
        let number = shared.accepted.fetch_add(1, Ordering::AcqRel);
        let kept = stream.try_clone().expect("a socket can be duplicated");
        shared.state().live.insert(number, kept);
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || {
            connection::serve(&shared, number, peer, stream);
            shared.state().live.remove(&number);
        }));
    }
    for thread in threads {
        thread.join().ok();
    }
}
