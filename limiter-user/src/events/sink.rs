//! One sink: a thread that renders what its queue holds and writes it, whatever it takes.
//!
//! A full disk, a closed pipe or a missing directory is counted and tried again with growing
//! pauses; meanwhile the queue fills and further events are lost, counted and reported once
//! writing works again. Nothing here can fail the agent or slow a publisher.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Event, Lifecycle,
    file::Destination,
    filter::Filter,
    json::{self, Position},
    queue::{Queue, Waited},
    text,
};
use crate::{
    clock,
    policy::{EventFormat, SinkKind, SinkPolicy},
};

/// Events that wait for a slow sink before further ones are lost.
pub const QUEUE_EVENTS: usize = 8192;

const WRITE_BYTES: usize = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const SLOW_READER_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What one sink has done so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SinkReport {
    /// `stderr`, or the path of the file.
    pub name: String,
    /// Events it never wrote.
    pub lost: u64,
    /// Writes, opens and rotations that failed.
    pub errors: u64,
}

/// The publisher's side of a sink.
#[derive(Debug)]
pub(super) struct Sink {
    policy: SinkPolicy,
    queue: Arc<Queue>,
    errors: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Starts the thread.
    pub(super) fn start(run: Arc<str>, policy: SinkPolicy) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(QUEUE_EVENTS));
        let errors = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            run,
            name: name(&policy.kind),
            queue: Arc::clone(&queue),
            errors: Arc::clone(&errors),
            destination: Destination::new(policy.kind.clone()),
            filter: filter(&policy),
            format: policy.format,
            pending: Pending::default(),
        };
        let finished = Arc::clone(&done);
        let thread = thread::Builder::new().name("event sink".into()).spawn(move || {
            worker.run();
            finished.store(true, Ordering::Release);
        })?;
        Ok(Self { policy, queue, errors, done, thread: Some(thread) })
    }

    pub(super) fn offer(&self, event: &Arc<Event>) {
        self.queue.offer(event);
    }

    pub(super) fn reopen(&self) {
        self.queue.reopen();
    }

    /// Whether `kind` is the same destination, perhaps with other bounds.
    pub(super) fn writes_to(&self, kind: &SinkKind) -> bool {
        name(&self.policy.kind) == name(kind)
    }

    /// Format, filter and bounds for the events offered from now on.
    pub(super) fn set_policy(&mut self, policy: SinkPolicy) {
        if self.policy != policy {
            self.queue.set_policy(policy.clone());
            self.policy = policy;
        }
    }

    /// Lets the thread end once it has written what is queued (or cannot write).
    pub(super) fn close(&self) {
        self.queue.close();
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub(super) fn report(&self) -> SinkReport {
        SinkReport {
            name: name(&self.policy.kind),
            lost: self.queue.lost_total(),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}

/// Never joins: a thread may hang in `write(2)` on a pipe that nobody reads.
impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
        drop(self.thread.take());
    }
}

fn name(kind: &SinkKind) -> String {
    match kind {
        SinkKind::Stderr => "stderr".into(),
        SinkKind::File { path, .. } => path.display().to_string(),
    }
}

fn filter(policy: &SinkPolicy) -> Filter {
    Filter { kinds: policy.kinds.clone(), source: None }
}

struct Worker {
    run: Arc<str>,
    name: String,
    queue: Arc<Queue>,
    errors: Arc<AtomicU64>,
    destination: Destination,
    filter: Filter,
    format: EventFormat,
    pending: Pending,
}

/// Whole lines that are rendered and not yet written.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    written: usize,
    events: u64,
}

impl Worker {
    fn run(&mut self) {
        loop {
            let mut batch = self.queue.take();
            if batch.reopen {
                self.reopen();
            }
            let mut alive = true;
            while alive && let Some((sequence, event)) = batch.events.pop_front() {
                alive = self.event(sequence, &event);
            }
            if alive && let Some((events, sequence)) = batch.lost {
                self.report_lost(events, sequence);
            }
            if !alive || !self.flush() {
                let unwritten = self.pending.events + batch.events.len() as u64;
                self.queue.abandon(unwritten);
                return;
            }
            if let Some(policy) = batch.policy {
                self.set_policy(policy);
            }
            if batch.closed {
                return;
            }
        }
    }

    /// Renders one event; whether to go on.
    fn event(&mut self, sequence: u64, event: &Event) -> bool {
        if !self.filter.admits(event) {
            return true;
        }
        self.render(sequence, event);
        self.pending.bytes.len() < WRITE_BYTES || self.flush()
    }

    fn render(&mut self, sequence: u64, event: &Event) {
        let line = match self.format {
            EventFormat::Text => text::line(event).to_string(),
            EventFormat::Json => json::line(event, Position { run: &self.run, sequence }),
        };
        self.pending.bytes.extend_from_slice(line.as_bytes());
        self.pending.bytes.push(b'\n');
        self.pending.events += 1;
    }

    /// Past the filter: a reader of any selection must learn that it is not whole.
    fn report_lost(&mut self, events: u64, sequence: u64) {
        let detail = format!("sink {} was too slow or failed", self.name);
        let event = Event {
            count: events,
            ..Event::lifecycle(clock::unix_ns(), Lifecycle::EventsLost, detail)
        };
        self.render(sequence, &event);
    }

    fn set_policy(&mut self, policy: SinkPolicy) {
        self.filter = filter(&policy);
        self.format = policy.format;
        self.destination.set_kind(policy.kind);
    }

    fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens the destination again. It may be another file now, so a line that was begun in the
    /// old one is begun again.
    fn reopen(&mut self) {
        if self.destination.reopen().is_err() {
            self.count_error();
        }
        let begun = &self.pending.bytes[..self.pending.written];
        self.pending.written =
            begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    }

    /// Writes all that is pending, trying again after errors until the queue is closed; whether
    /// it was written.
    fn flush(&mut self) -> bool {
        if !self.pending.bytes.is_empty()
            && self.destination.rotate_for(self.pending.bytes.len()).is_err()
        {
            self.count_error();
        }
        let mut pause = FIRST_PAUSE;
        while self.pending.written < self.pending.bytes.len() {
            let rest = &self.pending.bytes[self.pending.written..];
            match self.destination.write(rest) {
                Ok(written) => {
                    self.pending.written += written;
                    pause = FIRST_PAUSE;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // A reader that is only slow (a FIFO) is no error.
                    let slow = error.kind() == io::ErrorKind::WouldBlock;
                    if slow {
                        pause = SLOW_READER_PAUSE;
                    } else {
                        self.count_error();
                    }
                    match self.queue.pause(pause) {
                        Waited::Closed => return false,
                        Waited::Reopen => self.reopen(),
                        Waited::Elapsed if slow => {}
                        Waited::Elapsed => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
        self.pending = Pending::default();
        true
    }
}

#[cfg(test)]
pub(super) mod tests;
