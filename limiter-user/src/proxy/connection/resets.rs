//! What the HTTP/2 library keeps to itself, seen by the frames that come and go.
//!
//! In: the bytes of a connection both ways; out: how many streams were reset because their client
//! broke the protocol (RFC 9113, 8.1.1), and since when a head is under way that is not whole.
//! Changes and keeps nothing.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::registry::Connection;

/// Bytes of a frame's head, and of a whole `RST_STREAM` (RFC 9113, 4.1 and 6.4).
const HEAD_BYTES: usize = 9;
const RESET_BYTES: usize = HEAD_BYTES + 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

/// Streams reset for what their client did, since this was last looked at.
pub(super) type Broken = Rc<Cell<u32>>;

/// A stream whose frames are looked at.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    frames: Frames,
    broken: Broken,
    heads: Heads,
    connection: Rc<Connection>,
}

impl<S> Watched<S> {
    /// From the preface on.
    pub(super) fn new(stream: S, broken: Broken, connection: Rc<Connection>) -> Self {
        Self { stream, frames: Frames::default(), broken, heads: Heads::new(), connection }
    }

    fn received(&mut self, bytes: &[u8]) {
        let before = self.heads.is_open;
        self.heads.follow(bytes);
        if self.heads.is_open != before {
            self.connection.set_in_stream_head(!before);
        }
    }

    fn sent(&mut self, bytes: &[u8]) {
        let broken = self.frames.follow(bytes);
        if broken > 0 {
            self.broken.set(self.broken.get().saturating_add(broken));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.received(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.sent(&bytes[..sent]);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, parts))?;
        let mut left = sent;
        for part in parts {
            let of_it = left.min(part.len());
            self.sent(&part[..of_it]);
            left -= of_it;
        }
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Where in the frames the next byte is.
#[derive(Debug, Default)]
struct Frames {
    /// The current frame as far as it is kept: its head, of an `RST_STREAM` all of it.
    kept: [u8; RESET_BYTES],
    count: usize,
    /// Of the current frame's payload that is of no interest.
    skip: usize,
}

impl Frames {
    /// How many resets for a broken protocol end in `bytes`.
    fn follow(&mut self, mut bytes: &[u8]) -> u32 {
        let mut broken = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = if self.count < HEAD_BYTES { HEAD_BYTES } else { RESET_BYTES };
            let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.count));
            self.kept[self.count..self.count + taken.len()].copy_from_slice(taken);
            self.count += taken.len();
            bytes = rest;
            if self.count == HEAD_BYTES {
                let [high, middle, low, kind, ..] = self.kept;
                if kind != RST_STREAM {
                    let length = u32::from_be_bytes([0, high, middle, low]);
                    self.skip = usize::try_from(length).unwrap_or(usize::MAX);
                    self.count = 0;
                }
            } else if self.count == RESET_BYTES {
                broken += u32::from(self.kept[HEAD_BYTES..] == PROTOCOL_ERROR);
                self.count = 0;
            }
        }
        broken
    }
}

/// Whether a head is under way: begun, and its last frame not whole.
#[derive(Debug)]
struct Heads {
    /// The head of the current frame as far as it came.
    head: [u8; HEAD_BYTES],
    count: usize,
    /// Of the current frame's payload.
    left: usize,
    /// A head ends with that payload.
    ends: bool,
    is_open: bool,
}

impl Heads {
    /// Before the client's preface.
    fn new() -> Self {
        let left = super::PREFACE.len();
        Self { head: [0; HEAD_BYTES], count: 0, left, ends: false, is_open: false }
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        loop {
            if self.left == 0 && self.ends {
                (self.ends, self.is_open) = (false, false);
            }
            if bytes.is_empty() {
                return;
            }
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.count));
            self.head[self.count..self.count + taken.len()].copy_from_slice(taken);
            self.count += taken.len();
            bytes = rest;
            if self.count == HEAD_BYTES {
                let [high, middle, low, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, high, middle, low]);
                self.left = usize::try_from(length).unwrap_or(usize::MAX);
                self.count = 0;
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.is_open = true;
                    self.ends = flags & END_HEADERS != 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_under_way_until_its_last_frame_is_whole() {
        let piece = |kind, flags, payload: &[u8]| {
            let mut bytes = frame(kind, payload);
            bytes[4] = flags;
            bytes
        };
        let parts = [
            (super::super::PREFACE.to_vec(), false),
            (piece(4, 0, &[]), false),
            (piece(HEADERS, END_HEADERS, &[0; 20]), false),
            (piece(0, 0, &[1; 300]), false),
            (piece(HEADERS, 0, &[0; 5]), true),
            (piece(CONTINUATION, 0, &[]), true),
            (piece(CONTINUATION, END_HEADERS, &[0; 7]), false),
            (piece(HEADERS, END_HEADERS, &[]), false),
        ];
        for step in [1, 2, 8, 9, 10, 1000] {
            let mut heads = Heads::new();
            for (number, (bytes, is_open)) in parts.iter().enumerate() {
                bytes.chunks(step).for_each(|bytes| heads.follow(bytes));
                assert_eq!(heads.is_open, *is_open, "{number} by {step}");
            }
            heads.follow(&piece(HEADERS, END_HEADERS, &[0; 9])[..12]);
            assert!(heads.is_open, "its payload is not there");
        }
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn only_resets_for_a_broken_protocol_count_however_they_are_cut() {
        let reset = |reason: u8| frame(RST_STREAM, &[0, 0, 0, reason]);
        let in_data = frame(0, &reset(1).repeat(30));
        let sent = [
            frame(4, &[]),
            reset(1),
            in_data,
            reset(8),
            frame(1, &[0; 300]),
            reset(1),
            reset(0),
            reset(1),
        ]
        .concat();
        for piece in [1, 2, 3, 5, 9, 13, 100, sent.len()] {
            let mut frames = Frames::default();
            let broken: u32 = sent.chunks(piece).map(|bytes| frames.follow(bytes)).sum();
            assert_eq!(broken, 3, "{piece}");
        }
    }
}
