//! What the program itself has to say, on standard error, which agent and proxy share: a line each,
//! never waiting for a reader. What happens to requests goes over the link.
//!
//! The proxy speaks only of its own affairs; never text of a peer.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest line. With the note of those unsaid it fits the smallest room for which a pipe is
/// called writable (`PIPE_BUF`), so that a write does not wait after all; only another process
/// that writes between the question and the answer can take that room.
const MAX_LINE_BYTES: usize = 2_048;

/// Lines on standard error. Where a reader stalls a line is dropped and counted instead of
/// stopping who says it; the next one that finds room tells how many.
#[derive(Debug)]
pub(crate) struct Lines {
    unsaid: AtomicU64,
}

impl Lines {
    /// None said yet.
    pub(crate) const fn new() -> Self {
        Self { unsaid: AtomicU64::new(0) }
    }

    /// Says one line, given without its end.
    pub(crate) fn say(&self, line: &str) {
        self.write(&mut io::stderr().lock(), line);
    }

    fn write(&self, to: &mut (impl Write + AsFd), line: &str) {
        if !is_writable(to) {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
        let mut text = Vec::with_capacity(line.len().min(MAX_LINE_BYTES) + 1);
        if unsaid > 0 {
            text.extend_from_slice(
                format!("limiter: {unsaid} lines found no room here\n").as_bytes(),
            );
        }
        text.extend_from_slice(&line.as_bytes()[..line.floor_char_boundary(MAX_LINE_BYTES)]);
        text.push(b'\n');
        if to.write_all(&text).is_err() {
            // There is nowhere else to say it.
            self.unsaid.fetch_add(unsaid + 1, Ordering::Relaxed);
        }
    }
}

fn is_writable(to: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).is_ok()
        && asked[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

struct Stderr;

static LINES: Lines = Lines::new();

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Libraries log what peers sent.
        if record.target().starts_with("limiter") {
            LINES.say(&format!("limiter proxy: {}: {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// Writes warnings and errors, unless the process already has a logger.
pub(super) fn start() {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_stalled_reader_stops_nobody_and_hears_what_it_missed() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let lines = Lines::new();
        let long = "x".repeat(10_000);
        for _ in 0..200 {
            lines.write(&mut writer, &long);
        }
        let unsaid = lines.unsaid.load(Ordering::Relaxed);
        assert!((1..200).contains(&unsaid));
        let said = usize::try_from(200 - unsaid).unwrap();
        reader.read_exact(&mut vec![0; said * (MAX_LINE_BYTES + 1)]).unwrap();
        lines.write(&mut writer, "again");
        drop(writer);
        let mut heard = String::new();
        reader.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, format!("limiter: {unsaid} lines found no room here\nagain\n"));
    }
}
