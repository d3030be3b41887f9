//! What hyper reads of an HTTP/1 connection: bytes from its transport, as far as the framing lets
//! them pass.
//!
//! In: a way to read; out: filled buffers, or an end of the stream where a request is refused.

use std::{
    cell::RefMut,
    io,
    task::{Poll, ready},
};

use tokio::io::ReadBuf;

use super::Connection;
use crate::{
    clock,
    proxy::{
        framing::{Framer, Violation},
        transport::OtherSide,
    },
};

/// How long a request over HTTP/1 is still worked on whose client closed its side of the
/// connection: some do when they have sent everything, most when they are gone, and which of them
/// it is shows only when something is sent.
const HALF_CLOSED_NS: u64 = 10_000_000_000;

/// What is sent to find out: every client of HTTP/1.1 expects it at any time before its answer
/// (RFC 9110, 15.2), and the system of one that is gone answers it with a reset.
const ARE_YOU_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Where bytes come from.
pub(in crate::proxy) trait Source {
    /// Reads what is there.
    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    /// What is known without reading.
    fn other_side(&mut self) -> OtherSide;
    /// Sends something short at once; whether all of it was taken.
    fn send(&mut self, bytes: &[u8]) -> bool;
}

impl Connection {
    /// Reads what hyper may see now of HTTP/1. A request that is refused here ends the stream for
    /// it, and [`Framer::violation`] says why.
    pub(in crate::proxy) fn poll_passed(
        &self,
        buffer: &mut ReadBuf<'_>,
        source: &mut impl Source,
    ) -> Poll<io::Result<()>> {
        let mut framer = self.framer.borrow_mut();
        if let Some(end_ns) = self.half_closed_ns.get() {
            if framer.awaits_answer() {
                if clock::coarse_monotonic_ns() >= end_ns {
                    return Poll::Ready(Ok(()));
                }
                return self.look_for_client(&framer, source);
            }
            // What came before the end comes first.
            self.half_closed_ns.set(None);
        }
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
                return self.look_for_client(&framer, source);
            }
            if framer.is_in_head() {
                self.begin_head();
            }
            ready!(source.read(buffer))?;
            let bytes = &buffer.filled()[before..];
            if bytes.is_empty() {
                if framer.awaits_answer() {
                    self.half_closed_ns.set(Some(clock::coarse_monotonic_ns() + HALF_CLOSED_NS));
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            }
            let passed = framer.receive(bytes).unwrap_or(0);
            if let Some(Violation { refusal, unseen: false }) = framer.violation() {
                self.watch.violation.set(Some(refusal));
            }
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether the client of a request under way is still there, where nothing of it is read: asked
    /// of the socket now and then. Ready: it is not.
    fn look_for_client(&self, framer: &Framer, source: &mut impl Source) -> Poll<io::Result<()>> {
        if !self.is_due.take() || !framer.awaits_answer() {
            return Poll::Pending;
        }
        let gone = || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        match (source.other_side(), self.half_closed_ns.get()) {
            (OtherSide::Gone, _) => return gone(),
            (OtherSide::Closed, None) => {
                self.half_closed_ns.set(Some(clock::coarse_monotonic_ns() + HALF_CLOSED_NS));
            }
            // In the midst of an answer nothing else can be sent; the answer itself finds out.
            (_, Some(_)) if !self.said.get() && !self.unflushed.get() && framer.takes_interim() => {
                self.said.set(true);
                if !source.send(ARE_YOU_THERE) {
                    return gone();
                }
            }
            _ => {}
        }
        Poll::Pending
    }

    /// What came over HTTP/1 and how it is framed.
    pub(in crate::proxy) fn framer(&self) -> RefMut<'_, Framer> {
        self.framer.borrow_mut()
    }
}
