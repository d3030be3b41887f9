//! The journal's file: opened whatever state it is in, appended to, replaced as a whole.
//!
//! What is damaged is kept aside and told; nothing that can be read is lost. All methods block:
//! they are the journal thread's, and the agent's only before it serves anybody.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Deserialize;

use super::record::{self, Entry, HEADER_BYTES, Record};
use crate::policy::BanScope;

const NAME: &str = "bans.journal";

/// What version 0.1 kept bans in.
const EARLIER: &str = "bans.json";

/// A file this short is not worth making shorter.
const COMPACT_BEYOND_BYTES: u64 = 4 << 20;

/// Compacted when it is so many times as long as it was after the last time.
const COMPACT_AT: u64 = 3;

/// An open journal.
#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    file: File,
    /// Everything before this place is on disk.
    length: u64,
    /// Length when it was last written as a whole.
    compacted: u64,
}

/// What was found in the state directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// What was wrong, for people.
    pub(super) problem: Option<String>,
    /// The entries are not in a journal yet.
    must_rewrite: bool,
    length: u64,
}

/// A ban as version 0.1 wrote it.
#[derive(Deserialize)]
struct EarlierBan {
    prefix: IpNet,
    scope: BanScope,
    expires_unix_ns: u64,
    reason: String,
    origin: String,
}

/// Reads what is there: the journal, and what an earlier version left.
pub(super) fn read(state: &Path) -> Found {
    let mut found = Found::default();
    let mut problems = Vec::new();
    let path = state.join(NAME);
    match fs::read(&path) {
        Ok(bytes) => found.take(&path, &bytes, &mut problems),
        Err(error) if error.kind() == io::ErrorKind::NotFound => found.must_rewrite = true,
        Err(error) => {
            found.must_rewrite = true;
            problems.push(set_aside(&path, &error.to_string()));
        }
    }
    let earlier = state.join(EARLIER);
    match fs::read(&earlier) {
        Ok(bytes) => match serde_json::from_slice::<Vec<EarlierBan>>(&bytes) {
            Ok(bans) => {
                found.must_rewrite = true;
                found.entries.extend(bans.into_iter().map(imported));
            }
            Err(error) => problems.push(set_aside(&earlier, &error.to_string())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => problems.push(format!("{}: {error}", earlier.display())),
    }
    found.problem = (!problems.is_empty()).then(|| problems.join("; "));
    found
}

impl Found {
    fn take(&mut self, path: &Path, bytes: &[u8], problems: &mut Vec<String>) {
        let mut bans: HashMap<(IpNet, BanScope), Entry> = HashMap::new();
        let scan = record::scan(bytes, |record, _| match record {
            Record::Ban(entry) => drop(bans.insert((entry.prefix, entry.scope), entry)),
            Record::Lift(prefix, scope) => drop(bans.remove(&(prefix, scope))),
        });
        self.entries = bans.into_values().collect();
        self.length = scan.end.try_into().unwrap_or(u64::MAX);
        self.must_rewrite = scan.is_foreign || !scan.damaged.is_empty() || scan.end < HEADER_BYTES;
        if scan.is_foreign {
            problems.push(copy_aside(path, "it is of another version"));
        } else if !scan.damaged.is_empty() {
            let damaged: usize = scan.damaged.iter().map(Range::len).sum();
            let what = format!("{damaged} bytes in {} places are damaged", scan.damaged.len());
            problems.push(copy_aside(path, &format!("{what}, the bans around them are in force")));
        } else if scan.end < bytes.len() {
            let torn = bytes.len() - scan.end;
            log::warn!("{}: {torn} bytes at its end were torn off by a crash", path.display());
        }
    }
}

/// An earlier version did not say how long a ban was to last: as long as is left.
fn imported(ban: EarlierBan) -> Entry {
    let EarlierBan { prefix, scope, expires_unix_ns, reason, origin } = ban;
    Entry { prefix, scope, expires_unix_ns, length_ns: u64::MAX, reason, origin }
}

/// Keeps a file under another name; a sentence that says so.
fn set_aside(path: &Path, why: &str) -> String {
    told(path, why, fs::rename(path, aside(path)).is_ok())
}

/// As [`set_aside`], for a file that is about to be replaced: a crash before that loses nothing.
fn copy_aside(path: &Path, why: &str) -> String {
    told(path, why, fs::copy(path, aside(path)).is_ok())
}

fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".broken");
    aside.into()
}

fn told(path: &Path, why: &str, is_kept: bool) -> String {
    let kept = if is_kept { format!(", kept as {}", aside(path).display()) } else { String::new() };
    format!("{}: {why}{kept}", path.display())
}

impl JournalFile {
    /// Opens what [`read`] found, made whole; these bans are in it.
    pub(super) fn open(state: &Path, found: &Found) -> io::Result<Self> {
        let path = state.join(NAME);
        if found.must_rewrite {
            let mut records = Vec::new();
            for entry in &found.entries {
                record::encode(&Record::Ban(entry.clone()), &mut records);
            }
            let journal = Self::create(path, &records)?;
            match fs::remove_file(state.join(EARLIER)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(journal),
            }
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.set_len(found.length)?;
        Ok(Self { path, file, length: found.length, compacted: found.length })
    }

    /// Makes a journal of these records in place of the one that is there, all or nothing.
    pub(super) fn create_in(state: &Path, records: &[u8]) -> io::Result<Self> {
        Self::create(state.join(NAME), records)
    }

    fn create(path: PathBuf, records: &[u8]) -> io::Result<Self> {
        let temporary = path.with_extension("journal.new");
        let written = write_new(&temporary, records);
        let file = match written.and_then(|file| fs::rename(&temporary, &path).map(|()| file)) {
            Ok(file) => file,
            Err(error) => {
                // Half a file takes room that may be what is missing.
                drop(fs::remove_file(&temporary));
                return Err(error);
            }
        };
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        let length = HEADER_BYTES.saturating_add(records.len()).try_into().unwrap_or(u64::MAX);
        Ok(Self { path, file, length, compacted: length })
    }

    /// Writes records behind those that are there; they are on disk when this returns. After a
    /// failure the file is as it was.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(records, self.length);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // What this leaves is a torn tail, which the next attempt writes over.
            drop(self.file.set_len(self.length));
            return Err(error);
        }
        self.length = self.length.saturating_add(records.len().try_into().unwrap_or(u64::MAX));
        Ok(())
    }

    /// Whether it has grown so much that [`Self::compact`] is worth its time.
    pub(super) const fn has_grown(&self) -> bool {
        self.length > COMPACT_BEYOND_BYTES
            && self.length > self.compacted.saturating_mul(COMPACT_AT)
    }

    /// Leaves out what later records replaced, lifted bans, and those that ended before
    /// `now_unix_ns`.
    pub(super) fn compact(&mut self, now_unix_ns: u64) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(self.length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0)?;
        let mut last: HashMap<(IpNet, BanScope), Range<usize>> = HashMap::new();
        let scan = record::scan(&bytes, |record, range| {
            let holds =
                matches!(&record, Record::Ban(entry) if entry.expires_unix_ns > now_unix_ns);
            if holds {
                last.insert(record.key(), range);
            } else {
                last.remove(&record.key());
            }
        });
        if scan.is_foreign || !scan.damaged.is_empty() {
            return Err(io::Error::other("the journal was changed by somebody else"));
        }
        let mut ranges: Vec<Range<usize>> = last.into_values().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut records = Vec::with_capacity(ranges.iter().map(Range::len).sum());
        for range in ranges {
            records.extend_from_slice(&bytes[range]);
        }
        *self = Self::create(self.path.clone(), &records)?;
        Ok(())
    }

    /// Tries again only when it has grown as much again.
    pub(super) const fn give_up_compacting(&mut self) {
        self.compacted = self.length;
    }
}

fn write_new(path: &Path, records: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&record::header())?;
    file.write_all(records)?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::record::tests::entry, *};

    pub(in crate::agent) fn directory(name: &str) -> PathBuf {
        let name = format!("limiter-journal-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn encoded(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            record::encode(record, &mut bytes);
        }
        bytes
    }

    fn prefixes(found: &Found) -> Vec<String> {
        let mut all: Vec<_> = found.entries.iter().map(|entry| entry.prefix.to_string()).collect();
        all.sort();
        all
    }

    #[test]
    fn what_was_appended_is_there_again_and_lifted_bans_are_not() {
        let state = directory("append");
        let mut journal = JournalFile::open(&state, &read(&state)).unwrap();
        let (one, other) = (entry("192.0.2.1/32", 1), entry("192.0.2.2/32", 2));
        journal.append(&encoded(&[Record::Ban(one.clone()), Record::Ban(other)])).unwrap();
        journal.append(&encoded(&[Record::Lift(one.prefix, one.scope)])).unwrap();
        let found = read(&state);
        assert_eq!(prefixes(&found), ["192.0.2.2/32"]);
        assert_eq!(found.problem, None);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_torn_end_is_cut_off_and_written_on() {
        let state = directory("torn");
        let mut journal = JournalFile::open(&state, &read(&state)).unwrap();
        journal.append(&encoded(&[Record::Ban(entry("192.0.2.1/32", 1))])).unwrap();
        let torn = encoded(&[Record::Ban(entry("192.0.2.2/32", 1))]);
        journal.append(&torn[..torn.len() - 1]).unwrap();
        let found = read(&state);
        assert_eq!((prefixes(&found).len(), found.problem.as_ref()), (1, None));
        let mut journal = JournalFile::open(&state, &found).unwrap();
        journal.append(&encoded(&[Record::Ban(entry("192.0.2.3/32", 1))])).unwrap();
        assert_eq!(prefixes(&read(&state)), ["192.0.2.1/32", "192.0.2.3/32"]);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_damaged_middle_is_told_and_kept_aside_without_the_rest() {
        let state = directory("middle");
        let mut journal = JournalFile::open(&state, &read(&state)).unwrap();
        let bans: Vec<_> = (1..=3).map(|n| entry(&format!("192.0.2.{n}/32"), 1)).collect();
        journal.append(&encoded(&bans.into_iter().map(Record::Ban).collect::<Vec<_>>())).unwrap();
        let path = state.join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let found = read(&state);
        assert_eq!(prefixes(&found), ["192.0.2.1/32", "192.0.2.3/32"]);
        let problem = found.problem.clone().unwrap();
        assert!(problem.contains("1 places are damaged"), "{problem}");
        assert_eq!(fs::read(state.join("bans.journal.broken")).unwrap(), bytes);
        drop(JournalFile::open(&state, &found).unwrap());
        let again = read(&state);
        assert_eq!((prefixes(&again).len(), again.problem), (2, None));
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn bans_of_the_version_before_are_imported_once() {
        let state = directory("import");
        let text = r#"[{"prefix":"192.0.2.1/32","scope":"kernel","expires_unix_ns":7,
                        "reason":"why","origin":"manual"}]"#;
        fs::write(state.join(EARLIER), text).unwrap();
        let found = read(&state);
        assert_eq!((prefixes(&found).len(), found.entries[0].expires_unix_ns), (1, 7));
        drop(JournalFile::open(&state, &found).unwrap());
        assert!(!state.join(EARLIER).exists());
        assert_eq!(prefixes(&read(&state)), ["192.0.2.1/32"]);
        fs::write(state.join(EARLIER), "nonsense").unwrap();
        let found = read(&state);
        assert_eq!(prefixes(&found).len(), 1);
        assert!(found.problem.unwrap().contains("bans.json.broken"));
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn compacting_keeps_what_is_in_force() {
        let state = directory("compact");
        let mut journal = JournalFile::open(&state, &read(&state)).unwrap();
        let renewed: Vec<_> =
            (0..40_000).map(|n| Record::Ban(entry("192.0.2.1/32", 100 + n))).collect();
        assert!(!journal.has_grown());
        for part in renewed.chunks(10_000) {
            journal.append(&encoded(part)).unwrap();
        }
        let lifted = entry("192.0.2.2/32", 900_000);
        let lift = Record::Lift(lifted.prefix, lifted.scope);
        let ended = Record::Ban(entry("192.0.2.3/32", 50));
        journal.append(&encoded(&[Record::Ban(lifted), lift, ended])).unwrap();
        journal.compact(60).unwrap();
        assert!(journal.length < 200, "{}", journal.length);
        let other = Record::Ban(entry("192.0.2.4/32", 1));
        journal.append(&encoded(&[other])).unwrap();
        let found = read(&state);
        assert_eq!(prefixes(&found), ["192.0.2.1/32", "192.0.2.4/32"]);
        let newest = found.entries.iter().map(|entry| entry.expires_unix_ns).max();
        assert_eq!(newest, Some(40_099));
        fs::remove_dir_all(state).unwrap();
    }
}
