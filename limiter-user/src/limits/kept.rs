//! Counts of limits from one run of the program to the next.
//!
//! In: the memory that proxies counted in ([`super::arena`]), once none does any more; out: a file
//! of the agent's, and memory made from it as it was. It is read once: what was counted later is
//! never undone by it. Times in it are of this boot of the host, so after another one limits begin
//! anew.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use super::arena;

/// Before the memory: what this is, and of which boot.
const HEADER_BYTES: usize = 4096;
const TITLE: &str = "limiter: counts of limits of boot ";

/// What is looked at as a whole: a page that is all zero takes no room, neither here nor there.
const PAGE_BYTES: usize = 4096;
static ZERO: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Writes what `memory` holds to this file, which only its owner may read: who is counted is in it
/// as fingerprints, beside the secret that they are made with.
pub fn save(memory: &OwnedFd, path: &Path, boot: &str) -> io::Result<()> {
    let memory = File::from(memory.try_clone()?);
    let new = path.with_extension("new");
    remove(&new)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let bytes = memory.metadata()?.len();
    file.set_len(HEADER_BYTES as u64 + bytes)?;
    file.write_all_at(&header(boot)?, 0)?;
    copy((&memory, 0), (&file, HEADER_BYTES as u64), bytes)?;
    fs::rename(&new, path)
}

/// Memory with what [`save`] wrote in this boot; `None`: there is no such file, or it is of another
/// boot. The file is taken away. `InvalidData`: its layout is that of another version.
pub fn load(path: &Path, boot: &str) -> io::Result<Option<OwnedFd>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    remove(path)?;
    let mut found = [0; HEADER_BYTES];
    file.read_exact_at(&mut found, 0)?;
    if found != header(boot)? {
        return Ok(None);
    }
    let bytes = file.metadata()?.len() - HEADER_BYTES as u64;
    let write = |memory: &File| copy((&file, HEADER_BYTES as u64), (memory, 0), bytes);
    let memory = arena::create_filled(bytes, write)?;
    arena::check(memory.as_fd())?;
    Ok(Some(memory))
}

/// What was kept is not the last any more.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn header(boot: &str) -> io::Result<[u8; HEADER_BYTES]> {
    let text = format!("{TITLE}{boot}\n");
    let mut header = [0; HEADER_BYTES];
    let place = header.get_mut(..text.len()).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(text.as_bytes());
    Ok(header)
}

/// Copies so many bytes between two places, but nothing where they are zero.
fn copy(from: (&File, u64), to: (&File, u64), bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 * PAGE_BYTES];
    let mut at = 0;
    while at < bytes {
        let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
        let read = buffer.len().min(left);
        from.0.read_exact_at(&mut buffer[..read], from.1 + at)?;
        for (page, words) in (0_u64..).zip(buffer[..read].chunks(PAGE_BYTES)) {
            if *words != ZERO[..words.len()] {
                to.0.write_all_at(words, to.1 + at + page * PAGE_BYTES as u64)?;
            }
        }
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::atomic::Ordering};

    use super::{super::arena::Arena, *};

    /// A place for a file, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("limiter-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("limits")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn what_one_run_counted_the_next_one_finds_once() {
        let scratch = Scratch::new("kept");
        let memory = arena::create([1, 2]).unwrap();
        let before = Arena::open(&memory).unwrap();
        before.set(7)[0].store(42, Ordering::Relaxed);
        before.set(before.sets() - 1)[15].store(43, Ordering::Relaxed);
        before.touch(7);
        save(&memory, &scratch.file(), "b").unwrap();
        let after = Arena::open(load(&scratch.file(), "b").unwrap().unwrap()).unwrap();
        assert_eq!(after.set(7)[0].load(Ordering::Relaxed), 42);
        assert_eq!(after.set(after.sets() - 1)[15].load(Ordering::Relaxed), 43);
        assert_eq!(after.secret(), before.secret());
        assert!(load(&scratch.file(), "b").unwrap().is_none(), "only once");
    }

    #[test]
    fn another_boot_and_another_file_are_not_taken() {
        let scratch = Scratch::new("not-kept");
        let memory = arena::create([1, 2]).unwrap();
        save(&memory, &scratch.file(), "b").unwrap();
        assert!(load(&scratch.file(), "c").unwrap().is_none());
        for bytes in [HEADER_BYTES, HEADER_BYTES + 4096, HEADER_BYTES + (1 << 30)] {
            let file = File::create(scratch.file()).unwrap();
            file.write_all_at(&header("b").unwrap(), 0).unwrap();
            file.set_len(bytes as u64).unwrap();
            let error = load(&scratch.file(), "b").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes}");
        }
        fs::write(scratch.file(), "short").unwrap();
        assert!(load(&scratch.file(), "b").is_err());
        assert!(load(&scratch.file(), "b").unwrap().is_none(), "not a second time");
    }
}
