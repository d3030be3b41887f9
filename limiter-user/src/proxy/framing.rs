//! Between a client's socket and hyper: where each HTTP/1 request begins and ends, decided here.
//!
//! In: bytes as they were received; out: those that hyper may see. It gets a head only as a whole
//! and judged, bodies as far as their framing holds, and nothing of the next request before the
//! answer to the one before has ended. So nothing that it would read its own way ever gets there,
//! and it never refuses by itself. Knows no socket and no clock.

mod chunks;
mod head;

pub(super) use self::chunks::MAX_TRAILER_BYTES;
pub(super) use self::head::{is_disguised, is_method, is_target, length};
use self::{
    chunks::Chunks,
    head::{Method, Scan},
};
use crate::refusal::Refusal;

/// Empty lines that are ignored before a request line (RFC 9112, 2.2).
const MAX_EMPTY_LINES: u8 = 2;

/// Memory that an idle connection keeps for its next head.
const KEPT_BYTES: usize = 4096;

/// How much of a head that is refused is kept, to say what it was for.
const TOLD_BYTES: usize = 512;

/// What a head may be at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes, with request line and empty line.
    pub(super) head_bytes: usize,
    /// Field lines.
    pub(super) fields: usize,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Body {
    /// So many bytes, perhaps none.
    Bytes(u64),
    Chunked,
}

/// Where in the stream the next byte is that was not looked at.
#[derive(Debug)]
enum At {
    /// In a head, or before one.
    Head,
    /// In a body of which so much is left; the request ends with it.
    Body(u64),
    Chunks(Chunks),
    /// Somewhere that cannot be trusted.
    Refused,
    /// In what is no longer HTTP.
    Tunnel,
}

/// Why nothing is passed on any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Violation {
    pub(super) refusal: Refusal,
    /// hyper saw nothing of this request, so nothing else answers it.
    pub(super) unseen: bool,
}

/// The framing of one connection.
#[derive(Debug)]
pub(super) struct Framer {
    limits: Limits,
    at: At,
    scan: Scan,
    empty_lines: u8,
    /// The head of the current request as received, as far as it came.
    head: Vec<u8>,
    /// How much of a whole `head` was passed on.
    given: usize,
    /// Came behind what was passed on: up to `judged` of the current request's body, released up
    /// to `released`, then of later requests.
    held: Vec<u8>,
    judged: usize,
    released: usize,
    /// The answer to the last request has ended.
    answered: bool,
    violation: Option<Violation>,
}

impl Framer {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: At::Head,
            scan: Scan::default(),
            empty_lines: 0,
            head: Vec::new(),
            given: 0,
            held: Vec::new(),
            judged: 0,
            released: 0,
            answered: true,
            violation: None,
        }
    }

    /// The head of the request that is worked on, until its answer has ended; of a refused one as
    /// much as is told.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether a request has begun whose head is not whole.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.at, At::Head) && !self.head.is_empty()
    }

    /// Whether the request that is worked on is one of HTTP/1.1, to which interim answers may be sent.
    pub(super) fn takes_interim(&self) -> bool {
        let line = self.head.split(|byte| *byte == b'\r').next();
        line.is_some_and(|line| line.ends_with(b" HTTP/1.1"))
    }

    /// Whether a whole request was passed on whose answer has not ended.
    pub(super) fn awaits_answer(&self) -> bool {
        !self.answered && matches!(self.at, At::Body(0))
    }

    /// Whether the socket is not to be read: what came last is not to be passed on yet.
    pub(super) fn is_full(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was wrong, if something was: from then on the stream has ended for hyper.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// The request line of a refused request, if that is in order.
    pub(super) fn request_line(&self) -> Option<&[u8]> {
        let line = self.head.split(|byte| *byte == b'\r').next()?;
        self.scan.method().map(|_| line)
    }

    /// Whether a refused request is a HEAD, whose answer has no body.
    pub(super) fn is_bodiless(&self) -> bool {
        self.scan.method() == Some(Method::Head)
    }

    /// Takes bytes from the socket, when nothing can be released and it is not full. So many of
    /// them are to be passed on; the others are kept. `None`: the stream has ended.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Option<usize> {
        debug_assert!(self.held.is_empty(), "what came before is passed on first");
        if self.answered && matches!(self.at, At::Body(0)) {
            self.begin_head();
        }
        let in_head = matches!(self.at, At::Head);
        let received = if in_head { self.receive_head(bytes) } else { self.receive_rest(bytes) };
        received.map_err(|refusal| self.refuse(refusal, in_head.then_some(bytes))).ok()
    }

    /// What was kept and is to be passed on now, at most so many bytes. `None`: the stream has
    /// ended.
    pub(super) fn release(&mut self, room: usize) -> Option<&[u8]> {
        if self.violation.is_some() {
            return None;
        }
        if self.judged > 0 && self.released == self.judged {
            self.held.drain(..self.judged);
            (self.judged, self.released) = (0, 0);
        }
        let is_over = self.answered && matches!(self.at, At::Body(0));
        if is_over && self.judged == 0 && !self.held.is_empty() {
            self.begin_head();
            std::mem::swap(&mut self.head, &mut self.held);
            if let Err(refusal) = self.judge_kept() {
                self.refuse(refusal, Some(&[]));
                return None;
            }
        }
        if matches!(self.at, At::Head) {
            return Some(&[]);
        }
        let from = self.given;
        self.given += room.min(self.head.len() - from);
        if self.given > from {
            return Some(&self.head[from..self.given]);
        }
        let from = self.released;
        self.released += room.min(self.judged - from);
        Some(&self.held[from..self.released])
    }

    /// The answer to the current request has ended. Whether bytes of the next one are here.
    pub(super) fn answered(&mut self) -> bool {
        self.answered = true;
        self.head.clear();
        self.given = 0;
        self.head.shrink_to(KEPT_BYTES);
        !self.held.is_empty()
    }

    /// Gives back the memory that is kept for the next request. `false`: a part of one is here.
    pub(super) fn rest(&mut self) -> bool {
        let is_at_rest = self.held.is_empty() && self.head.is_empty();
        if is_at_rest {
            self.held = Vec::new();
            self.head = Vec::new();
        }
        is_at_rest
    }

    /// From now on bytes pass as they come.
    pub(super) fn open(&mut self) {
        self.at = At::Tunnel;
        self.judged = self.held.len();
    }

    fn begin_head(&mut self) {
        self.at = At::Head;
        self.scan = Scan::default();
        self.empty_lines = 0;
        self.head.clear();
        self.given = 0;
    }

    fn receive_head(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        if !self.head.is_empty() || matches!(bytes, [b'\r' | b'\n', ..]) {
            self.head.extend_from_slice(bytes);
            return self.judge_kept().map(|()| 0);
        }
        let Some(whole) = self.scan.feed(bytes, self.limits)? else {
            self.head.extend_from_slice(bytes);
            return Ok(0);
        };
        let (head, rest) = bytes.split_at(whole.bytes);
        self.begin_body(whole.body);
        // A body that is refused at once is refused with its head, which nobody has seen.
        let passed = self.follow(rest)?;
        self.head.extend_from_slice(head);
        self.given = head.len();
        self.held.extend_from_slice(&rest[passed..]);
        Ok(head.len() + passed)
    }

    /// Looks at a head that did not come in one piece.
    fn judge_kept(&mut self) -> Result<(), Refusal> {
        while let [b'\r' | b'\n', rest @ ..] = self.head.as_slice() {
            match rest {
                [] if self.head[0] == b'\r' => return Ok(()),
                [b'\n', ..] if self.head[0] == b'\r' && self.empty_lines < MAX_EMPTY_LINES => {
                    self.head.drain(..2);
                    self.empty_lines += 1;
                }
                _ => return Err(Refusal::MalformedRequest),
            }
        }
        if let Some(whole) = self.scan.feed(&self.head, self.limits)? {
            let rest = self.head.split_off(whole.bytes);
            self.begin_body(whole.body);
            self.judged = self.follow(&rest)?;
            self.held = rest;
        }
        Ok(())
    }

    fn begin_body(&mut self, body: Body) {
        self.answered = false;
        self.at = match body {
            Body::Bytes(length) => At::Body(length),
            Body::Chunked => At::Chunks(Chunks::default()),
        };
    }

    fn receive_rest(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let passed = self.follow(bytes)?;
        self.held.extend_from_slice(&bytes[passed..]);
        Ok(passed)
    }

    /// How many of `bytes` are of the current request's body.
    fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match &mut self.at {
            At::Body(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                // No more than is left.
                *left -= taken as u64;
                Ok(taken)
            }
            At::Chunks(chunks) => {
                let taken = chunks.follow(bytes)?;
                if chunks.has_ended() {
                    self.at = At::Body(0);
                }
                Ok(taken)
            }
            At::Tunnel => Ok(bytes.len()),
            At::Head | At::Refused => Ok(0),
        }
    }

    /// Nothing passes any more. `unseen`: what came last of a request that hyper has not seen.
    fn refuse(&mut self, refusal: Refusal, unseen: Option<&[u8]>) {
        self.violation = Some(Violation { refusal, unseen: unseen.is_some() });
        self.at = At::Refused;
        self.held = Vec::new();
        if let Some(bytes) = unseen {
            let room = TOLD_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.head.truncate(TOLD_BYTES);
        }
    }
}

#[cfg(test)]
mod tests;
