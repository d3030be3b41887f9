//! Every ban on disk, so that it outlives the agent and the host: an append-only file.
//!
//! The agent records and goes on; a thread of its own writes what has gathered and waits for the
//! disk once for all of it (group commit). Whoever must be sure waits for [`Journal::committed`].
//! While the disk refuses, records wait in memory, bounded by the size of the book, and are tried
//! again: nothing is lost without being told.

mod file;
pub(super) mod record;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use self::file::JournalFile;
pub(super) use self::record::{Entry, Record};
use crate::clock;

/// How long records gather that nobody waits for.
const GATHER: Duration = Duration::from_millis(500);

/// Pause before the disk is asked again, unless somebody waits.
const RETRY: Duration = Duration::from_secs(1);

/// Records that may wait for a slow disk, before the whole book takes their place.
const MAX_BACKLOG_BYTES: usize = 16 << 20;

/// Records that may wait for a disk that refuses, beside twice the book: a full disk may have room
/// for the book, and not for bans that were made and lifted since.
const MAX_REFUSED_BYTES: usize = 64 << 10;

/// A journal and the thread that writes it.
#[derive(Debug)]
pub(super) struct Journal {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Records to be written, encoded.
    pending: Vec<u8>,
    /// They take the place of everything that was recorded before.
    is_whole: bool,
    /// Number of the last record.
    recorded: u64,
    /// Bytes that are not on disk.
    backlog: usize,
    /// Somebody waits.
    is_urgent: bool,
    is_closed: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("State").field("backlog", &self.backlog).finish_non_exhaustive()
    }
}

/// How far the thread is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Records up to this number were tried to be written.
    tried: u64,
    /// Why they are not on disk.
    problem: Option<String>,
    /// How often the disk was asked.
    attempts: u64,
}

impl Journal {
    /// Opens the journal in this directory, whatever state it is in; the bans in it, and what was
    /// wrong with it.
    pub(super) fn open(state: &Path) -> (Self, Vec<Entry>, Option<String>) {
        let found = file::read(state);
        let mut writer = Writer {
            directory: state.to_owned(),
            file: None,
            unwritten: Vec::new(),
            is_whole: false,
        };
        let mut progress = Progress::default();
        match JournalFile::open(state, &found) {
            Ok(file) => writer.file = Some(file),
            Err(error) => {
                progress.problem = Some(unwritten(&error));
                writer.is_whole = true;
                for entry in &found.entries {
                    record::encode(&Record::Ban(entry.clone()), &mut writer.unwritten);
                }
            }
        }
        let shared = Arc::new(Shared::default());
        shared.lock().backlog = writer.unwritten.len();
        let (report, progress) = watch::channel(progress);
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("limiter-bans".to_owned())
            .spawn(move || writer.run(&theirs, &report));
        let thread = thread.map_err(|error| log::error!("no thread to write bans: {error}")).ok();
        (Self { shared, progress, thread }, found.entries, found.problem)
    }

    /// Has a record written soon.
    pub(super) fn append(&self, record: &Record) {
        let mut state = self.shared.lock();
        let before = state.pending.len();
        record::encode(record, &mut state.pending);
        state.backlog += state.pending.len() - before;
        state.recorded += 1;
        let was_idle = before == 0;
        drop(state);
        if was_idle {
            self.shared.changed.notify_one();
        }
    }

    /// Writes these bans in place of everything that was recorded before.
    pub(super) fn replace(&self, entries: impl Iterator<Item = Entry>) {
        let mut records = Vec::new();
        let mut count = 0;
        for entry in entries {
            record::encode(&Record::Ban(entry), &mut records);
            count += 1;
        }
        let mut state = self.shared.lock();
        state.backlog = records.len();
        state.pending = records;
        state.is_whole = true;
        state.recorded += count;
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Whether so much waits for the disk that the whole book would be shorter: then
    /// [`Self::replace`] bounds it.
    pub(super) fn is_overdue(&self, book_bytes: usize) -> bool {
        let bound = if self.progress.borrow().problem.is_some() {
            MAX_REFUSED_BYTES.saturating_add(book_bytes.saturating_mul(2))
        } else {
            MAX_BACKLOG_BYTES.saturating_add(book_bytes)
        };
        self.shared.lock().backlog > bound
    }

    /// Whether whoever records much should first wait for [`Self::committed`].
    pub(super) fn is_behind(&self) -> bool {
        self.shared.lock().backlog > MAX_BACKLOG_BYTES / 4
    }

    /// Waits until everything recorded so far is on disk, or cannot be written.
    pub(super) fn committed(&self) -> impl Future<Output = Result<(), String>> + use<> {
        let mut progress = self.progress.clone();
        let (before, is_failing) = {
            let progress = progress.borrow();
            (progress.attempts, progress.problem.is_some())
        };
        let wanted = {
            let mut state = self.shared.lock();
            state.is_urgent |= state.backlog > 0 || is_failing;
            state.recorded
        };
        self.shared.changed.notify_one();
        async move {
            // A failure of before says nothing of now.
            let is_news = |progress: &Progress| {
                progress.tried >= wanted
                    && (progress.problem.is_none() || progress.attempts > before)
            };
            match progress.wait_for(is_news).await.as_deref() {
                Ok(Progress { problem: None, .. }) => Ok(()),
                Ok(Progress { problem: Some(problem), .. }) => Err(problem.clone()),
                Err(_) => Err("the thread that writes bans has ended".to_owned()),
            }
        }
    }

    /// Why bans cannot be written at the moment.
    pub(super) fn problem(&self) -> Option<String> {
        if self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished) {
            return Some("the bans cannot be saved: the thread that writes them ended".to_owned());
        }
        self.progress.borrow().problem.clone()
    }

    /// Writes what is left and ends the thread.
    pub(super) fn close(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that writes bans broke off");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Nothing is left half changed when a thread panics while it holds this.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to write, or for the end; `is_failing`: for the time to try again.
    fn wait(&self, is_failing: bool) -> MutexGuard<'_, State> {
        let is_due = |state: &State| state.is_urgent || state.is_closed || state.is_whole;
        let mut state = self.lock();
        if !is_failing {
            while state.pending.is_empty() && !is_due(&state) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let pause = if is_failing { RETRY } else { GATHER };
        let waited = self.changed.wait_timeout_while(state, pause, |state| !is_due(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What the thread has in hand.
struct Writer {
    directory: PathBuf,
    file: Option<JournalFile>,
    /// Records that the disk refused.
    unwritten: Vec<u8>,
    /// They take the place of the whole file.
    is_whole: bool,
}

impl Writer {
    fn run(mut self, shared: &Shared, report: &watch::Sender<Progress>) {
        for attempts in 1.. {
            let is_failing = self.is_whole || !self.unwritten.is_empty();
            let (recorded, is_closed) = {
                let mut state = shared.wait(is_failing);
                let pending = std::mem::take(&mut state.pending);
                if std::mem::take(&mut state.is_whole) {
                    self.is_whole = true;
                    self.unwritten = pending;
                } else if self.unwritten.is_empty() {
                    self.unwritten = pending;
                } else {
                    self.unwritten.extend(pending);
                }
                state.is_urgent = false;
                (state.recorded, state.is_closed)
            };
            let bytes = self.unwritten.len();
            let written = self.write();
            if written.is_ok() {
                let mut state = shared.lock();
                state.backlog = state.backlog.saturating_sub(bytes);
            }
            let problem = written.err().map(|error| unwritten(&error));
            report.send_replace(Progress { tried: recorded, problem, attempts });
            if is_closed {
                return;
            }
            self.compact();
        }
    }

    fn write(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) if !self.is_whole => {
                if !self.unwritten.is_empty() {
                    file.append(&self.unwritten)?;
                }
            }
            _ => {
                self.file = Some(JournalFile::create_in(&self.directory, &self.unwritten)?);
                self.is_whole = false;
            }
        }
        self.unwritten = Vec::new();
        Ok(())
    }

    fn compact(&mut self) {
        if let Some(file) = self.file.as_mut().filter(|file| file.has_grown())
            && let Err(error) = file.compact(clock::unix_ns())
        {
            log::warn!("the journal of bans cannot be made shorter: {error}");
            file.give_up_compacting();
        }
    }
}

fn unwritten(error: &io::Error) -> String {
    format!("the bans cannot be saved: {error}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{file::tests::directory, record::tests::entry, *};
    use crate::policy::BanScope;

    fn wait(journal: &Journal) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(journal.committed())
    }

    #[test]
    fn what_is_committed_survives_and_what_is_gathered_is_written_at_the_end() {
        let state = directory("thread");
        let (mut journal, found, problem) = Journal::open(&state);
        assert!(found.is_empty() && problem.is_none());
        let many: Vec<_> = (0..10_000)
            .map(|n: u32| entry(&format!("10.0.{}.{}/32", n / 256, n % 256), u64::from(n)))
            .collect();
        for entry in &many {
            journal.append(&Record::Ban(entry.clone()));
        }
        wait(&journal).unwrap();
        assert_eq!(file::read(&state).entries.len(), many.len());
        journal.append(&Record::Lift(many[0].prefix, many[0].scope));
        journal.close();
        let (journal, found, _) = Journal::open(&state);
        assert_eq!(found.len(), many.len() - 1);
        journal.replace(many.into_iter().take(3));
        wait(&journal).unwrap();
        assert_eq!(file::read(&state).entries.len(), 3);
        drop(journal);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn what_nobody_waits_for_is_written_within_a_second() {
        let state = directory("gather");
        let (journal, ..) = Journal::open(&state);
        journal.append(&Record::Ban(entry("192.0.2.1/32", 1)));
        let mut progress = journal.progress.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let done = runtime.block_on(async {
            let written = progress.wait_for(|progress| progress.tried == 1);
            tokio::time::timeout(Duration::from_secs(1), written).await.is_ok()
        });
        assert!(done);
        assert_eq!(file::read(&state).entries.len(), 1);
        drop(journal);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_disk_that_refuses_is_told_and_tried_again() {
        let state = directory("refuses");
        let (journal, ..) = Journal::open(&state);
        // A directory in the way of the temporary file: root is refused too.
        fs::create_dir(state.join("bans.journal.new")).unwrap();
        journal.replace([entry("192.0.2.1/32", 1)].into_iter());
        assert!(wait(&journal).unwrap_err().starts_with("the bans cannot be saved: "));
        journal.append(&Record::Ban(entry("192.0.2.2/32", 1)));
        assert!(wait(&journal).is_err() && journal.problem().is_some());
        // What waits may be longer than what is true now, which then takes its place.
        assert!(!journal.is_overdue(0));
        for number in 0..MAX_REFUSED_BYTES / 16 {
            let network = format!("10.1.{}.{}/32", number / 256 % 256, number % 256);
            journal.append(&Record::Lift(network.parse().unwrap(), BanScope::Kernel));
        }
        assert!(journal.is_overdue(0) && !journal.is_overdue(1 << 20));
        fs::remove_dir(state.join("bans.journal.new")).unwrap();
        wait(&journal).unwrap();
        assert!(!journal.is_overdue(0));
        assert_eq!(journal.problem(), None);
        assert_eq!(file::read(&state).entries.len(), 2);
        drop(journal);
        fs::remove_dir_all(state).unwrap();
    }
}
