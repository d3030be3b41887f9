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
        let thread = thread::Builder::new()
            .name("event sink".into())
            .spawn(move || {
                worker.run();
                finished.store(true, Ordering::Release);
            })?;
        Ok(Self {
            policy,
            queue,
            errors,
            done,
            thread: Some(thread),
        })
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
    Filter {
        kinds: policy.kinds.clone(),
        source: None,
    }
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
            EventFormat::Json => json::line(
                event,
                Position {
                    run: &self.run,
                    sequence,
                },
            ),
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
        self.pending.written = begun
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
    }

    /// Writes all that is pending, trying again after errors until the queue is closed; whether
    /// it was written.
    fn flush(&mut self) -> bool {
        if !self.pending.bytes.is_empty()
            && self
                .destination
                .rotate_for(self.pending.bytes.len())
                .is_err()
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
pub(super) mod tests {
    use std::{
        fs::{self, File},
        io::Read,
        path::{Path, PathBuf},
        sync::atomic::AtomicU32,
    };

    use super::*;

    /// A new directory of this test.
    pub(in crate::events) fn temporary(name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!(
            "limiter-events-{name}-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(&path).unwrap();
        path
    }

    fn file_policy(path: &Path) -> SinkPolicy {
        SinkPolicy {
            kind: SinkKind::File {
                path: path.into(),
                rotate_bytes: 0,
                keep: 0,
            },
            format: EventFormat::Text,
            kinds: Vec::new(),
        }
    }

    fn start(policy: SinkPolicy) -> Sink {
        Sink::start("run".into(), policy).unwrap()
    }

    fn event(detail: &str) -> Arc<Event> {
        Arc::new(Event::lifecycle(0, Lifecycle::Attached, detail))
    }

    /// Waits (10 s at most) until it holds.
    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..2000 {
            if holds() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("never: {what}");
    }

    fn finish(sink: &Sink) {
        sink.close();
        until("the sink ends", || sink.is_done());
    }

    #[test]
    fn a_full_disk_costs_events_and_nothing_else() {
        let sink = start(file_policy(Path::new("/dev/full")));
        let many = QUEUE_EVENTS as u64 * 3;
        for _ in 0..many {
            sink.offer(&event("x"));
        }
        until("an error is counted", || sink.report().errors > 0);
        finish(&sink);
        let report = sink.report();
        assert_eq!(report.lost, many, "{report:?}");
    }

    #[test]
    fn a_slow_reader_learns_of_its_loss_and_numbers_add_up() {
        let directory = temporary("slow");
        let path = directory.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for reading and writing so that the sink finds a reader that does not read.
        let mut reader = File::options().read(true).write(true).open(&path).unwrap();
        let sink = start(SinkPolicy {
            format: EventFormat::Json,
            ..file_policy(&path)
        });
        let many = QUEUE_EVENTS * 4;
        for _ in 0..many {
            sink.offer(&event("x"));
        }
        until("events are lost", || sink.report().lost > 0);
        let lost = sink.report().lost;
        let collect = thread::spawn(move || {
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while !text.ends_with(b"END\"}\n") {
                let length = reader.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..length]);
                let tail = text.len().saturating_sub(600);
                if text[tail..].windows(5).any(|bytes| bytes == b": END") {
                    break;
                }
            }
            String::from_utf8(text).unwrap()
        });
        // Reported on recovery, without any further event to trigger it.
        thread::sleep(Duration::from_secs(1));
        sink.offer(&event("END"));
        let text = collect.join().unwrap();
        finish(&sink);
        let (mut next, mut reported, mut gaps) = (1, 0, 0);
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let sequence = line["limiter.sequence"].as_u64().unwrap();
            gaps += sequence - next;
            next = sequence + 1;
            if line["event.action"] == "events_lost" {
                reported += line["limiter.count"].as_u64().unwrap();
            }
        }
        assert_eq!(reported, lost);
        assert_eq!(gaps, lost);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn reopens_for_logrotate_and_takes_a_new_policy_in_order() {
        let directory = temporary("reopen");
        let path = directory.join("log");
        let mut sink = start(file_policy(&path));
        let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
        sink.offer(&event("one"));
        until("the first line", || lines(&path) == 1);
        let old = directory.join("old");
        fs::rename(&path, &old).unwrap();
        sink.offer(&event("two"));
        until("still the old file", || lines(&old) == 2);
        sink.reopen();
        until("the new file exists", || path.exists());
        sink.offer(&event("three"));
        until("the new file", || lines(&path) == 1);
        sink.set_policy(SinkPolicy {
            kinds: vec!["banned".into()],
            ..file_policy(&path)
        });
        until("the policy is taken", || {
            sink.offer(&Arc::new(Event::lifecycle(0, Lifecycle::Banned, "")));
            sink.offer(&event("four"));
            let text = fs::read_to_string(&path).unwrap();
            text.trim_end().ends_with("Banned unknown")
        });
        finish(&sink);
        assert_eq!(sink.report().lost, 0);
        fs::remove_dir_all(directory).unwrap();
    }
}
