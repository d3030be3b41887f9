//! A sink against a full disk, a slow reader, logrotate and a reload.

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
    let path =
        std::env::temp_dir().join(format!("limiter-events-{name}-{}-{number}", std::process::id()));
    fs::create_dir(&path).unwrap();
    path
}

fn file_policy(path: &Path) -> SinkPolicy {
    SinkPolicy {
        kind: SinkKind::File { path: path.into(), rotate_bytes: 0, keep: 0 },
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
    let sink = start(SinkPolicy { format: EventFormat::Json, ..file_policy(&path) });
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
    sink.set_policy(SinkPolicy { kinds: vec!["banned".into()], ..file_policy(&path) });
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
