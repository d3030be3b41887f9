//! A directory of this test's own, removed on drop with every mount below it.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::netns::{is_alive, owner};

/// First part of every directory name; then the process id and a counter.
const OURS: &str = "limiter-test-";

/// The directory. Everybody may read it: the proxy is unprivileged.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory. The first call in a process removes those (and the mounts below
    /// them) that killed earlier runs left behind.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);

        let path = std::env::temp_dir().join(format!(
            "{OURS}{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file below it, with its directories, and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("directories below the scratch directory");
        }
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Mounts a BPF file system of its own at `name`; unmounting it on drop removes every pin in it.
    pub fn mount_bpffs(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).expect("directories below the scratch directory");
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|error| panic!("mount bpffs at {}: {error}", path.display()));
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name, OURS).is_some_and(|process| !is_alive(process)) {
            remove(&entry.path());
        }
    }
}

/// Unmounts what is mounted below, innermost first, then removes. Quiet: also runs while unwinding.
fn remove(path: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<&Path> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .filter(|mount| mount.starts_with(path))
        .collect();
    below.reverse();
    for mount in below {
        umount2(mount, MntFlags::MNT_DETACH).ok();
    }
    drop(fs::remove_dir_all(path));
}
