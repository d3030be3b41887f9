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
    proxy::framing::{Framer, Violation},
};

/// How long a request over HTTP/1 is still worked on whose client closed its side of the
/// connection: some do when they have sent everything, most when they are gone, and which of them
/// it is shows only when something is sent.
const HALF_CLOSED_NS: u64 = 10_000_000_000;

impl Connection {
    /// Reads by `read` what hyper may see now of HTTP/1. A request that is refused here ends the
    /// stream for it, and [`Framer::violation`] says why.
    pub(in crate::proxy) fn poll_passed(
        &self,
        buffer: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let mut framer = self.framer.borrow_mut();
        if let Some(end_ns) = self.half_closed_ns.get() {
            let is_waiting = framer.awaits_answer() && clock::coarse_monotonic_ns() < end_ns;
            return if is_waiting { Poll::Pending } else { Poll::Ready(Ok(())) };
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
                return Poll::Pending;
            }
            if framer.is_in_head() {
                self.begin_head();
            }
            ready!(read(buffer))?;
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

    /// What came over HTTP/1 and how it is framed.
    pub(in crate::proxy) fn framer(&self) -> RefMut<'_, Framer> {
        self.framer.borrow_mut()
    }
}
