//! The open connections of one core: what ends them from outside, and their deadlines.
//!
//! A connection's state is a handful of cells that its task, its request and the sweeper share;
//! whoever changes it wakes the task.

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    collections::HashSet,
    future::poll_fn,
    io,
    net::IpAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{io::ReadBuf, sync::Notify};

use super::{
    framing::{Framer, Limits},
    stage::{bans::one_client, transform::ForwardedFor},
};
use crate::{clock, limits::AddressKey};

/// No deadline.
const NEVER: u64 = u64::MAX;

/// How long an idle connection may still begin a request after draining began.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// What a connection is waiting for; says what its deadline means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request head.
    Head,
    /// A request is being worked on; the request itself watches the deadline.
    Request,
    /// The client is to take the response.
    Response,
}

/// One connection as others see it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    pub(super) phase: Cell<Phase>,
    deadline_ns: Cell<u64>,
    expired: Cell<bool>,
    aborted: Cell<bool>,
    draining: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    framer: RefCell<Framer>,
    header_timeout: Duration,
    /// Set while the client is to send more of a request body.
    pub(super) awaits_body: Cell<bool>,
    /// What was wrong with a request body, told beside its error.
    pub(super) body_fault: Cell<Option<crate::refusal::Refusal>>,
    /// What the framing refuses in the body of a request was told with that request.
    pub(super) violation_told: Cell<bool>,
    pub(super) forwarded_for: RefCell<Option<Rc<ForwardedFor>>>,
}

/// Peers whose connections are to end. Looked at once for each connection, however many they are.
#[derive(Debug, Default)]
pub(super) struct Peers {
    clients: HashSet<AddressKey>,
    networks: Vec<IpNet>,
}

impl Peers {
    fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.clients.contains(&AddressKey::new(peer))
            || self.networks.iter().any(|network| network.contains(&peer))
    }
}

impl FromIterator<IpNet> for Peers {
    fn from_iter<T: IntoIterator<Item = IpNet>>(prefixes: T) -> Self {
        let mut peers = Self::default();
        for prefix in prefixes {
            match one_client(prefix) {
                Some(client) => drop(peers.clients.insert(client)),
                None => peers.networks.push(prefix),
            }
        }
        peers
    }
}

/// Why a connection's task should stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// From outside, or the client takes no response.
    Aborted,
    /// No request came.
    Idle,
    /// A request head did not come to its end.
    HeadTimeout,
}

impl Connection {
    pub(super) fn new(peer: IpAddr, header_timeout: Duration, limits: Limits) -> Self {
        Self {
            peer,
            phase: Cell::new(Phase::Idle),
            deadline_ns: Cell::new(after(header_timeout)),
            expired: Cell::new(false),
            aborted: Cell::new(false),
            draining: Cell::new(false),
            waker: RefCell::new(None),
            framer: RefCell::new(Framer::new(limits)),
            header_timeout,
            awaits_body: Cell::new(false),
            body_fault: Cell::new(None),
            violation_told: Cell::new(false),
            forwarded_for: RefCell::new(None),
        }
    }

    /// Reads by `read` what hyper may see now. A request that is refused here ends the stream for
    /// it, and [`Framer::violation`] says why.
    pub(super) fn poll_passed(
        &self,
        buffer: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let mut framer = self.framer.borrow_mut();
        let before = buffer.filled().len();
        loop {
            let Some(kept) = framer.release(buffer.remaining()) else {
                return Poll::Ready(Ok(()));
            };
            buffer.put_slice(kept);
            if !kept.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if framer.is_full() {
                // The end of the answer wakes the task.
                return Poll::Pending;
            }
            if framer.is_in_head() && self.phase.get() == Phase::Idle {
                self.phase.set(Phase::Head);
                self.deadline_ns.set(after(self.header_timeout));
            }
            ready!(read(buffer))?;
            let bytes = &buffer.filled()[before..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = framer.receive(bytes).unwrap_or(0);
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What came and how it is framed.
    pub(super) fn framer(&self) -> RefMut<'_, Framer> {
        self.framer.borrow_mut()
    }

    /// A request head is complete.
    pub(super) fn begin_request(&self) {
        self.phase.set(Phase::Request);
        self.clear_deadline();
        self.body_fault.set(None);
        self.awaits_body.set(false);
    }

    /// The head of the request as received, until its answer ends.
    pub(super) fn head(&self) -> Ref<'_, [u8]> {
        Ref::map(self.framer.borrow(), Framer::head)
    }

    /// The response has begun.
    pub(super) fn begin_response(&self, idle: Duration) {
        self.phase.set(Phase::Response);
        self.set_deadline(idle);
    }

    /// The response has ended; the next request may come.
    pub(super) fn end_request(&self, idle: Duration) {
        self.phase.set(Phase::Idle);
        self.set_deadline(if self.draining.get() { DRAIN_IDLE.min(idle) } else { idle });
        if self.framer.borrow_mut().answered() {
            self.wake();
        }
    }

    pub(super) fn set_deadline(&self, limit: Duration) {
        self.expired.set(false);
        self.deadline_ns.set(after(limit));
    }

    pub(super) fn clear_deadline(&self) {
        self.expired.set(false);
        self.deadline_ns.set(NEVER);
    }

    /// `future`'s output, or `None` when the deadline (first `limit`; the future may move it)
    /// passes.
    pub(super) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        self.set_deadline(limit);
        let mut future = pin!(future);
        let output = poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.expired.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await;
        self.clear_deadline();
        output
    }

    /// Whether the task should stop, and why; remembers whom to wake.
    pub(super) fn poll_ended(&self, context: &Context<'_>) -> Option<Ended> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        if self.aborted.get() {
            return Some(Ended::Aborted);
        }
        match self.phase.get() {
            _ if !self.expired.get() => None,
            Phase::Idle => Some(Ended::Idle),
            Phase::Head => Some(Ended::HeadTimeout),
            Phase::Request => None,
            Phase::Response => Some(Ended::Aborted),
        }
    }

    /// Whether the connection should end after the request in flight, and its answer say so.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

fn after(limit: Duration) -> u64 {
    let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(NEVER);
    clock::coarse_monotonic_ns().saturating_add(limit_ns)
}

/// The connections of one core.
#[derive(Debug, Default)]
pub(super) struct Registry {
    places: RefCell<Places>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Places {
    connections: Vec<Option<Rc<Connection>>>,
    free: Vec<usize>,
    open: usize,
    draining: bool,
}

impl Registry {
    /// Adds a connection; the place is for [`Self::remove`].
    pub(super) fn insert(&self, connection: Rc<Connection>) -> usize {
        let mut places = self.places.borrow_mut();
        connection.draining.set(places.draining);
        places.open += 1;
        if let Some(place) = places.free.pop() {
            places.connections[place] = Some(connection);
            place
        } else {
            places.connections.push(Some(connection));
            places.connections.len() - 1
        }
    }

    pub(super) fn remove(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        places.connections[place] = None;
        places.free.push(place);
        places.open -= 1;
        if places.open == 0 {
            self.emptied.notify_one();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.borrow().open == 0
    }

    /// Ends the connections of these peers at once.
    pub(super) fn close(&self, peers: &Peers) {
        self.each(|connection| {
            if peers.contains(connection.peer) {
                connection.aborted.set(true);
                connection.wake();
            }
        });
    }

    /// Ends all connections at once.
    pub(super) fn close_all(&self) {
        self.each(|connection| {
            connection.aborted.set(true);
            connection.wake();
        });
    }

    /// Lets connections end after their next answer, which says so, later ones too. One that is
    /// idle is not closed at once: its next request may be on the way.
    pub(super) fn drain(&self) {
        self.places.borrow_mut().draining = true;
        self.each(|connection| {
            connection.draining.set(true);
            if connection.phase.get() == Phase::Idle {
                connection.set_deadline(DRAIN_IDLE);
            }
        });
    }

    /// Waits until no connection is open.
    pub(super) async fn emptied(&self) {
        while !self.is_empty() {
            self.emptied.notified().await;
        }
    }

    /// Tells the connections whose deadline has passed.
    pub(super) fn expire(&self, now_ns: u64) {
        self.each(|connection| {
            if now_ns >= connection.deadline_ns.get() && !connection.expired.replace(true) {
                connection.wake();
            }
        });
    }

    fn each(&self, mut act: impl FnMut(&Connection)) {
        for connection in self.places.borrow().connections.iter().flatten() {
            act(connection);
        }
    }
}
