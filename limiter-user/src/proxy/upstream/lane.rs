//! One core's connections to one server: kept, shared, counted, given up.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    pool::Link,
    server::{CoreCounts, Server},
    wire::Wire,
};
use crate::{clock, policy::upstream::Scheme, proxy::body::RequestBody};

/// Connections kept for one server by one core.
const MAX_IDLE: usize = 256;

/// How long a connection is kept without a request. Shorter than common servers keep theirs, so
/// that the side that closes first is ours.
const IDLE_NS: u64 = 4_000_000_000;

/// Requests on one HTTP/2 connection before another is opened, and connections of one core.
pub(super) const MAX_STREAMS: usize = 100;
const MAX_SHARED: usize = 16;

/// One core's connections to one server.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) server: Arc<Server>,
    core: usize,
    idle: RefCell<Vec<(Box<Http1>, u64)>>,
    shared: RefCell<Vec<Rc<Shared>>>,
    /// The server speaks HTTP/2, as far as it is known.
    pub(super) speaks_http2: Cell<bool>,
    /// Somebody opens a connection that others may share.
    pub(super) opening: Cell<bool>,
    pub(super) opened: Notify,
    /// Of the addresses that kept connections lead to.
    generation: Cell<u64>,
}

/// A connection for one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    task: JoinHandle<()>,
}

/// A connection for many requests at a time.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<RequestBody>,
    streams: Cell<usize>,
    /// As many as the server takes at a time.
    at_a_time: Rc<Cell<usize>>,
    until_ns: Cell<u64>,
}

/// Counts a connection for as long as it is open.
#[derive(Debug)]
pub(super) struct Open(Rc<Lane>);

impl Lane {
    pub(super) fn new(server: Arc<Server>, core: usize) -> Self {
        let scheme = server.identity.server.scheme;
        Self {
            core,
            idle: RefCell::default(),
            shared: RefCell::default(),
            speaks_http2: Cell::new(scheme == Scheme::H2c),
            opening: Cell::new(false),
            opened: Notify::new(),
            generation: Cell::new(server.addresses.generation()),
            server,
        }
    }

    pub(super) fn counts(&self) -> &CoreCounts {
        &self.server.cores[self.core]
    }

    /// A kept connection.
    pub(super) fn take(&self, now_ns: u64) -> Option<Box<Http1>> {
        let mut idle = self.idle.borrow_mut();
        while let Some((kept, until_ns)) = idle.pop() {
            if !kept.sender.is_closed() && now_ns < until_ns {
                return Some(kept);
            }
        }
        None
    }

    /// A connection with room for one more request.
    pub(super) fn shared(&self) -> Option<Rc<Shared>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|one| !one.sender.is_closed());
        let room =
            |one: &&Rc<Shared>| one.streams.get() < MAX_STREAMS.min(one.at_a_time.get()).max(1);
        let found = shared.iter().find(room);
        // Beyond the bound they wait for one another on the connection that has the fewest.
        let crowded = || {
            let full = shared.len() >= MAX_SHARED;
            full.then(|| shared.iter().min_by_key(|one| one.streams.get())).flatten()
        };
        found.or_else(crowded).map(Rc::clone)
    }

    /// Keeps a new connection for many requests.
    pub(super) fn share(
        &self,
        sender: http2::SendRequest<RequestBody>,
        at_a_time: Rc<Cell<usize>>,
    ) -> Rc<Shared> {
        let until_ns = Cell::new(clock::coarse_monotonic_ns().saturating_add(IDLE_NS));
        let shared = Rc::new(Shared { sender, streams: Cell::new(0), at_a_time, until_ns });
        self.shared.borrow_mut().push(Rc::clone(&shared));
        shared
    }

    /// Keeps a connection whose answer has ended.
    pub(super) fn keep(&self, kept: Box<Http1>) {
        let mut idle = self.idle.borrow_mut();
        if !kept.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push((kept, clock::coarse_monotonic_ns().saturating_add(IDLE_NS)));
        }
    }

    /// Counts one more connection.
    pub(super) fn open(self: &Rc<Self>) -> Open {
        self.counts().connections.up();
        Open(Rc::clone(self))
    }

    /// Drops connections that ended or were not used for long.
    pub(super) fn prune(&self, now_ns: u64) {
        let mut idle = self.idle.borrow_mut();
        let generation = self.server.addresses.generation();
        if self.generation.replace(generation) != generation {
            // The name stands for other addresses now.
            idle.clear();
            self.shared.borrow_mut().clear();
        }
        idle.retain(|(kept, until_ns)| !kept.sender.is_closed() && now_ns < *until_ns);
        self.shared.borrow_mut().retain(|one| {
            !one.sender.is_closed() && (one.streams.get() > 0 || now_ns < one.until_ns.get())
        });
    }
}

impl Http1 {
    /// Ends the connection, also if it is still sending a request whose answer is over, or not
    /// wanted any more.
    pub(super) fn end(&self) {
        self.task.abort();
    }
}

impl Shared {
    /// One more request.
    pub(super) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// One less.
    pub(super) fn leave(&self) {
        self.streams.set(self.streams.get() - 1);
        self.until_ns.set(clock::coarse_monotonic_ns().saturating_add(IDLE_NS));
    }
}

impl Open {
    /// Runs a connection for one request at a time.
    pub(super) fn run(
        self,
        sender: http1::SendRequest<RequestBody>,
        connection: http1::Connection<TokioIo<Wire>, RequestBody>,
    ) -> Link {
        let task = tokio::task::spawn_local(async move {
            // Its errors are those of the request in flight, which is told.
            drop(connection.await);
            drop(self);
        });
        Link::Http1(Box::new(Http1 { sender, task }))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts().connections.down();
    }
}
