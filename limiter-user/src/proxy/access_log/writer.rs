//! The thread that writes the access log, so that no core waits for a disk.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::Batch;

/// Batches that may wait for the disk.
const QUEUE: usize = 64;

/// What the thread shares with those who give it lines.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Until the thread takes it.
    next: Mutex<Next>,
    lost: AtomicU64,
}

impl Shared {
    pub(super) fn set_file(&self, file: Option<File>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Next::GoOnWith(file);
    }

    pub(super) fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn take_next(&self) -> Next {
        std::mem::take(&mut *self.next.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What to write to.
#[derive(Debug, Default)]
enum Next {
    /// As before.
    #[default]
    Same,
    /// Another file, or none.
    GoOnWith(Option<File>),
}

pub(super) fn start() -> io::Result<(Arc<Shared>, SyncSender<Batch>, JoinHandle<()>)> {
    let shared = Arc::<Shared>::default();
    let (sender, batches) = sync_channel(QUEUE);
    let own = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("access-log".to_owned())
        .stack_size(64 << 10)
        .spawn(move || write(&own, &batches))?;
    Ok((shared, sender, thread))
}

fn write(shared: &Shared, batches: &Receiver<Batch>) {
    let mut sink: Sink<File> = Sink { file: None, is_cut: false };
    for batch in batches {
        if let Next::GoOnWith(file) = shared.take_next() {
            sink = Sink { file, is_cut: false };
        }
        let lost = sink.write(&batch);
        if lost > 0 {
            shared.lose(lost);
        }
    }
}

/// A file, and whether its last line was cut off.
struct Sink<W> {
    file: Option<W>,
    is_cut: bool,
}

impl<W: Write> Sink<W> {
    /// Writes what it can; how many lines were lost.
    fn write(&mut self, batch: &Batch) -> u64 {
        let Some(file) = self.file.as_mut() else {
            return batch.count;
        };
        if std::mem::take(&mut self.is_cut) && file.write_all(b"\n").is_err() {
            self.is_cut = true;
            return batch.count;
        }
        let mut left = &*batch.lines;
        while !left.is_empty() {
            match file.write(left) {
                Ok(written @ 1..) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let lost = left.split(|byte| *byte == b'\n').skip(1).count() as u64;
        let written = &batch.lines[..batch.lines.len() - left.len()];
        self.is_cut = lost > 0 && written.last().is_some_and(|byte| *byte != b'\n');
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then no more.
    struct Disk {
        room: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room).min(7);
            self.room -= count;
            self.written.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_cuts_is_counted_and_the_next_line_stands_alone() {
        let batch = || Batch { lines: b"first line\nsecond\n".to_vec(), count: 2 };
        let mut sink = Sink { file: Some(Disk { room: 13, written: Vec::new() }), is_cut: false };
        assert_eq!(sink.write(&batch()), 1);
        assert_eq!(sink.write(&batch()), 2);
        sink.file.as_mut().unwrap().room = 1_000;
        assert_eq!(sink.write(&batch()), 0);
        let written = String::from_utf8(sink.file.take().unwrap().written).unwrap();
        assert_eq!(written, "first line\nse\nfirst line\nsecond\n");
        assert_eq!(sink.write(&batch()), 2, "without a file");
    }
}
