//! The open connections of one core: what ends them from outside, and their deadlines.
//!
//! A connection's state is a handful of cells that its task, its requests and the sweeper share;
//! whoever changes it wakes the task. What belongs to one request is its [`Watch`].

mod places;
mod reading;

use std::{
    cell::{Cell, OnceCell, Ref, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::Context,
    time::Duration,
};

pub(super) use self::{places::Registry, reading::Source};
use super::{
    compiled_listener::Listener,
    framing::{Framer, Limits},
    proof::Client,
    stage::transform::ForwardedFor,
    tls::TlsFacts,
    upstream::Tunnel,
    watch::{Phase, Watch},
};
use crate::clock;

/// How long an idle connection may still begin a request after draining began.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// After how many sweeps without a request a connection gives the memory of HTTP back: a second.
const QUIET_SWEEPS: u8 = 10;

/// Requests over HTTP/2 that a client may take back beyond those that were answered: as many as
/// it may have at a time, twice.
const MAX_RESETS: u32 = 200;

/// One connection as others see it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    /// What a trusted proxy says that the client is.
    source: Cell<Option<IpAddr>>,
    listener: Arc<Listener>,
    tls: OnceCell<Box<TlsFacts>>,
    /// Of the connection, and over HTTP/1 of its request too: there is one at a time.
    watch: Rc<Watch>,
    /// Requests under way over HTTP/2.
    streams: RefCell<Vec<Rc<Watch>>>,
    /// Requests over HTTP/2 that the client took back, less those that were answered.
    resets: Cell<u32>,
    aborted: Cell<bool>,
    draining: Cell<bool>,
    /// What was written is not known to be with the kernel.
    unflushed: Cell<bool>,
    /// Something was written since the request under way began.
    said: Cell<bool>,
    /// It is time to look whether the client is still there, of which nothing is read.
    is_due: Cell<bool>,
    /// Sweeps that found nothing under way, in a row.
    quiet_sweeps: Cell<u8>,
    /// The client closed its side behind a whole request over HTTP/1: until when that may mean
    /// only that nothing more comes.
    half_closed_ns: Cell<Option<u64>>,
    /// When the head of a later request over HTTP/2 has to be there that has begun.
    head_until_ns: Cell<u64>,
    head_expired: Cell<bool>,
    /// Of HTTP/1.
    framer: RefCell<Framer>,
    header_timeout: Duration,
    pub(super) forwarded_for: RefCell<Option<Rc<ForwardedFor>>>,
    /// Whose tunnel it has become: no request of it is looked at any more.
    pub(super) tunnelling: Cell<Option<Client>>,
    /// Goes on where HTTP/1 ends.
    pub(super) tunnel: RefCell<Option<Box<Tunnel>>>,
}

/// Why a connection's task should stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// From outside, or the client takes no response.
    Aborted,
    /// What comes before HTTP did not come to its end.
    Opening,
    /// No request came.
    Idle,
    /// A request head did not come to its end.
    HeadTimeout,
}

impl Connection {
    /// `header_timeout`: until a request head has come, from the first wait for it.
    pub(super) fn new(
        peer: IpAddr,
        listener: Arc<Listener>,
        header_timeout: Duration,
        limits: Limits,
    ) -> Self {
        let watch = Watch::new(Phase::Idle);
        watch.set_deadline(header_timeout);
        Self {
            peer,
            source: Cell::new(None),
            listener,
            tls: OnceCell::new(),
            watch: Rc::new(watch),
            streams: RefCell::default(),
            resets: Cell::new(0),
            aborted: Cell::new(false),
            draining: Cell::new(false),
            unflushed: Cell::new(false),
            said: Cell::new(false),
            is_due: Cell::new(false),
            quiet_sweeps: Cell::new(0),
            half_closed_ns: Cell::new(None),
            head_until_ns: Cell::new(u64::MAX),
            head_expired: Cell::new(false),
            framer: RefCell::new(Framer::new(limits)),
            header_timeout,
            forwarded_for: RefCell::new(None),
            tunnelling: Cell::new(None),
            tunnel: RefCell::new(None),
        }
    }

    /// What the PROXY protocol says that the client is; `None` where it is not spoken.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.source.get()
    }

    /// The client as far as the connection says.
    pub(super) fn client(&self) -> IpAddr {
        self.source.get().unwrap_or(self.peer)
    }

    /// Scheme of its requests.
    pub(super) fn scheme(&self) -> &'static str {
        if self.listener.tls.is_some() { "https" } else { "http" }
    }

    pub(super) fn set_source(&self, client: IpAddr) {
        self.source.set(Some(client));
    }

    /// Where it was accepted.
    pub(super) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// What the TLS handshake proved; `None` without TLS.
    pub(super) fn tls(&self) -> Option<&TlsFacts> {
        self.tls.get().map(Box::as_ref)
    }

    pub(super) fn set_tls(&self, facts: TlsFacts) {
        // There is one handshake.
        drop(self.tls.set(Box::new(facts)));
    }

    /// Something comes before HTTP, within so long.
    pub(super) fn begin_opening(&self, limit: Duration) {
        self.watch.enter(Phase::Opening, limit);
    }

    /// HTTP may begin.
    pub(super) fn begin_waiting(&self) {
        self.watch.enter(Phase::Idle, self.header_timeout);
    }

    /// The first bytes of a request came.
    pub(super) fn begin_head(&self) {
        if self.watch.phase() == Phase::Idle {
            self.watch.enter(Phase::Head, self.header_timeout);
        }
    }

    /// A request head over HTTP/2 has begun, or is there as a whole.
    pub(super) fn set_in_stream_head(&self, begun: bool) {
        let limit_ns = u64::try_from(self.header_timeout.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = || clock::coarse_monotonic_ns().saturating_add(limit_ns);
        self.head_until_ns.set(if begun { until_ns() } else { u64::MAX });
    }

    /// What the next request over HTTP/1 is watched by.
    pub(super) fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    /// What a request over HTTP/2 is watched by, from its head on until [`Self::end_request`].
    pub(super) fn open_stream(&self) -> Rc<Watch> {
        let stream = Rc::new(Watch::new(Phase::Request));
        self.streams.borrow_mut().push(Rc::clone(&stream));
        self.watch.begin_request();
        stream
    }

    /// The head of the request as received, until its answer ends. Empty over HTTP/2.
    pub(super) fn head(&self) -> Ref<'_, [u8]> {
        Ref::map(self.framer.borrow(), Framer::head)
    }

    /// A request that was watched by `watch` has ended; another may come.
    pub(super) fn end_request(&self, watch: &Rc<Watch>, idle: Duration) {
        if self.is_stream(watch) {
            let mut streams = self.streams.borrow_mut();
            streams.retain(|stream| !Rc::ptr_eq(stream, watch));
            if !streams.is_empty() {
                return;
            }
        } else if self.framer.borrow_mut().answered() || self.half_closed_ns.get().is_some() {
            self.watch.wake();
        }
        let limit = if self.draining.get() { DRAIN_IDLE.min(idle) } else { idle };
        self.watch.enter(Phase::Idle, limit);
    }

    /// A request over HTTP/2 is over: answered, or the client took it back before.
    pub(super) fn ended_stream(&self, answered: bool) {
        let resets = self.resets.get();
        self.resets.set(if answered { resets.saturating_sub(1) } else { resets + 1 });
        if self.is_resetting() {
            self.watch.wake();
        }
    }

    /// Whether the client takes back far more requests than it lets be answered.
    pub(super) fn is_resetting(&self) -> bool {
        self.resets.get() > MAX_RESETS
    }

    /// Whether this is a request's of HTTP/2, beside which there may be others.
    pub(super) fn is_stream(&self, watch: &Rc<Watch>) -> bool {
        !Rc::ptr_eq(watch, &self.watch)
    }

    /// Whether the task should stop, and why; remembers whom to wake.
    pub(super) fn poll_ended(&self, context: &Context<'_>) -> Option<Ended> {
        self.watch.remember(context);
        if self.aborted.get() {
            return Some(Ended::Aborted);
        }
        if self.head_expired.get() {
            return Some(Ended::HeadTimeout);
        }
        match self.watch.phase() {
            _ if !self.watch.is_expired() => None,
            Phase::Opening => Some(Ended::Opening),
            Phase::Idle => Some(Ended::Idle),
            Phase::Head => Some(Ended::HeadTimeout),
            Phase::Request => None,
            Phase::Response => Some(Ended::Aborted),
        }
    }

    /// Whether the connection should end after the requests in flight, and its answers say so.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn abort(&self) {
        self.aborted.set(true);
        self.watch.wake();
    }

    /// Lets it end after the requests in flight, or soon if there is none.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        if self.watch.phase() == Phase::Idle {
            self.watch.set_deadline(DRAIN_IDLE);
        }
        self.watch.wake();
    }

    /// Bytes were written, or all of them are on their way.
    pub(super) fn set_unflushed(&self, unflushed: bool) {
        self.unflushed.set(unflushed);
        if unflushed {
            self.said.set(true);
        }
    }

    /// A request was read: nothing of its answer is written yet.
    pub(super) fn begin_request(&self) {
        self.said.set(false);
    }

    /// Whether nothing has been under way over HTTP/1 for a while, and nothing is kept that the
    /// next request needs: its memory has been given back.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_quiet = self.quiet_sweeps.get() >= QUIET_SWEEPS
            && self.watch.phase() == Phase::Idle
            && !self.unflushed.get()
            && self.half_closed_ns.get().is_none()
            && self.framer.borrow_mut().rest();
        if is_quiet {
            self.forwarded_for.take();
        }
        is_quiet
    }

    /// Wakes the task once when it has been quiet for a while.
    fn count_quiet(&self) {
        let is_quiet = self.watch.phase() == Phase::Idle && !self.unflushed.get();
        let before = self.quiet_sweeps.get();
        let now = if is_quiet { before.saturating_add(1).min(QUIET_SWEEPS) } else { 0 };
        self.quiet_sweeps.set(now);
        if now == QUIET_SWEEPS && before != now {
            self.watch.wake();
        }
    }

    fn expire(&self, now_ns: u64, is_crowded: bool) {
        self.watch.expire(now_ns);
        self.count_quiet();
        let half_closed_ns = self.half_closed_ns.get();
        if half_closed_ns.is_some_and(|end_ns| is_crowded || now_ns >= end_ns) {
            self.half_closed_ns.set(Some(0));
        }
        if half_closed_ns.is_some() || self.framer.borrow().is_full() {
            self.is_due.set(true);
            self.watch.wake();
        }
        if now_ns >= self.head_until_ns.get() && !self.head_expired.replace(true) {
            self.watch.wake();
        }
        for stream in self.streams.borrow().iter() {
            stream.expire(now_ns);
        }
    }
}
