//! The access log: a line for each request, if the policy wants it.
//!
//! In: what an exchange was; out: whole lines, gathered by each core and written by one thread to
//! the file that the agent opened. A request never waits for a disk: what finds no room is counted.

mod line;
mod writer;

use std::{
    cell::RefCell,
    os::fd::OwnedFd,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use tokio::sync::Notify;

pub(super) use self::line::Entry;
use self::{line::Stamp, writer::Shared};
use crate::policy::http::AccessFormat;

/// How long a line waits for others.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// Bytes of lines that go together.
const BATCH_BYTES: usize = 64 << 10;

/// How long what is left may take to be written at the end.
const FINISH: Duration = Duration::from_millis(500);

/// Lines of one core on their way to the writer.
#[derive(Debug)]
pub(super) struct AccessLog {
    gathered: RefCell<Gathered>,
    wake: Notify,
    writer: Writer,
}

#[derive(Debug, Default)]
struct Gathered {
    lines: Vec<u8>,
    count: u64,
    stamp: Stamp,
    woken: bool,
}

/// Lines that go together.
#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    count: u64,
}

/// The writing thread, as others see it; it ends with the last of these.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    batches: SyncSender<Batch>,
}

impl AccessLog {
    pub(super) fn new(writer: Writer) -> Self {
        Self { gathered: RefCell::default(), wake: Notify::new(), writer }
    }

    /// Adds the line of one request.
    pub(super) fn note(&self, format: AccessFormat, entry: &Entry<'_>) {
        let mut gathered = self.gathered.borrow_mut();
        let gathered = &mut *gathered;
        line::append(&mut gathered.lines, format, entry, &mut gathered.stamp);
        gathered.count += 1;
        if gathered.lines.len() >= BATCH_BYTES {
            self.send(gathered);
        } else if !std::mem::replace(&mut gathered.woken, true) {
            self.wake.notify_one();
        }
    }

    /// Sends batches for ever; the timer runs only while there are lines.
    pub(super) async fn flush(&self) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(FLUSH_AFTER).await;
            self.flush_now();
        }
    }

    /// Sends what is there without waiting.
    pub(super) fn flush_now(&self) {
        let mut gathered = self.gathered.borrow_mut();
        gathered.woken = false;
        self.send(&mut gathered);
    }

    fn send(&self, gathered: &mut Gathered) {
        if gathered.count == 0 {
            return;
        }
        let lines = std::mem::take(&mut gathered.lines);
        let batch = Batch { lines, count: std::mem::take(&mut gathered.count) };
        if let Err(unsent) = self.writer.batches.try_send(batch) {
            let (std::sync::mpsc::TrySendError::Full(batch)
            | std::sync::mpsc::TrySendError::Disconnected(batch)) = unsent;
            self.writer.shared.lose(batch.count);
        }
    }
}

impl Writer {
    /// Starts the thread, without a file yet.
    pub(super) fn start() -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (shared, batches, thread) = writer::start()?;
        Ok((Self { shared, batches }, thread))
    }

    /// Writes to this file from the next lines on; `None`: to none.
    pub(super) fn set_file(&self, file: Option<OwnedFd>) {
        self.shared.set_file(file.map(std::fs::File::from));
        // Wakes the thread, so that it lets go of the file before; busy, it looks by itself.
        drop(self.batches.try_send(Batch { lines: Vec::new(), count: 0 }));
    }

    /// Lines that were not written.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost()
    }

    /// Lets go, and waits for what is left to be written, for a moment.
    pub(super) async fn finish(self, thread: std::thread::JoinHandle<()>) {
        drop(self);
        let ended = async {
            while !thread.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(tokio::time::timeout(FINISH, ended).await);
    }
}
