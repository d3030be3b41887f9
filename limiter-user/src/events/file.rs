//! Where a sink's lines end up: standard error, or a file that rotates by size.
//!
//! Opens lazily and again after an error; never holds a lock that other threads write under.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use crate::policy::SinkKind;

/// An open (or yet to be opened) destination.
#[derive(Debug)]
pub(super) struct Destination {
    kind: SinkKind,
    file: Option<Open>,
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) file: File,
    /// Bytes in it; `None`: not a regular file, never rotated.
    pub(crate) size: Option<u64>,
}

impl Destination {
    pub(super) const fn new(kind: SinkKind) -> Self {
        Self { kind, file: None }
    }

    /// Other rotation bounds of the same destination.
    pub(super) fn set_kind(&mut self, kind: SinkKind) {
        self.kind = kind;
    }

    /// Opens the path anew.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = None;
        self.open().map(drop)
    }

    /// Writes once, as `write(2)`.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let open = self.open()?;
        let written = open.file.write(lines)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Some(size) = &mut open.size {
            *size += written as u64;
        }
        Ok(written)
    }

    /// Rotates if the file would grow beyond its bound by so many bytes. To be called between
    /// lines; after an error the file goes on growing.
    pub(super) fn rotate_for(&mut self, more: usize) -> io::Result<()> {
        let SinkKind::File { path, rotate_bytes, keep } = self.kind.clone() else {
            return Ok(());
        };
        let size = self.file.as_ref().and_then(|open| open.size).unwrap_or(0);
        if rotate_bytes == 0 || size == 0 || size.saturating_add(more as u64) <= rotate_bytes {
            return Ok(());
        }
        self.file = None;
        rotate(&path, keep)
    }

    fn open(&mut self) -> io::Result<&mut Open> {
        let open = match self.file.take() {
            Some(open) => open,
            None => match &self.kind {
                // A descriptor of its own: a stalled reader of standard error must not stall
                // whoever else prints there under std's lock.
                SinkKind::Stderr => Open {
                    file: File::from(io::stderr().as_fd().try_clone_to_owned()?),
                    size: None,
                },
                SinkKind::File { path, .. } => open_file(path)?,
            },
        };
        Ok(self.file.insert(open))
    }
}

/// Appends, never truncates; close-on-exec is std's default. `O_NONBLOCK` matters for a FIFO
/// without a reader only: opening it fails instead of waiting.
pub(crate) fn open_file(path: &Path) -> io::Result<Open> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    let size = metadata.is_file().then_some(metadata.len());
    Ok(Open { file, size })
}

/// `log` becomes `log.1`, `log.1` becomes `log.2`, ...; what would be beyond `keep` is deleted.
pub(crate) fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::events::sink::tests::temporary;

    #[test]
    fn rotates_between_lines_and_keeps_as_many_as_told() {
        let directory = temporary("rotate");
        let path = directory.join("new/log");
        let mut destination =
            Destination::new(SinkKind::File { path: path.clone(), rotate_bytes: 10, keep: 2 });
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n", "eeee\n", "ffff\n", "g\n"] {
            destination.rotate_for(line.len()).unwrap();
            assert_eq!(destination.write(line.as_bytes()).unwrap(), line.len());
        }
        let read = |name: &str| fs::read_to_string(directory.join("new").join(name)).unwrap();
        assert_eq!(read("log"), "g\n");
        assert_eq!(read("log.1"), "eeee\nffff\n");
        assert_eq!(read("log.2"), "cccc\ndddd\n");
        assert!(!numbered(&path, 3).exists());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        fs::remove_dir_all(directory).unwrap();
    }
}
