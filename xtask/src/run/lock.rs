//! One demonstration per target directory. The locks go with the processes that hold them, however
//! these end; nothing has to be cleaned up.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::interrupt::Interrupt;
use crate::clock::Stopwatch;

/// How long the processes of a demonstration that was killed may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// For the process that shows. Refused while another shows; waits while what an earlier one left
/// is still ending.
pub(super) fn take(directory: &Path, interrupt: &Interrupt) -> Result<File> {
    let path = beside(directory, "lock");
    let mut file = open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only decorates the message.
            drop((&file).take(32).read_to_string(&mut holder));
            bail!(
                "another demonstration runs in {} (process {}); end that one with Ctrl-C first",
                directory.display(),
                holder.trim()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    wait_for_host(directory, interrupt)?;
    Ok(file)
}

/// For the first process of the server's namespaces, which can outlive the one that shows.
pub(super) fn take_as_host(directory: &Path) -> Result<File> {
    let path = beside(directory, "host-lock");
    let file = open(&path)?;
    file.try_lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn wait_for_host(directory: &Path, interrupt: &Interrupt) -> Result<()> {
    let path = beside(directory, "host-lock");
    let file = open(&path)?;
    let stopwatch = Stopwatch::start();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) if stopwatch.elapsed() > PATIENCE => {
                bail!("an earlier demonstration does not end: it holds {}", path.display());
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !told {
            eprintln!("xtask: waiting for what is left of an earlier demonstration to end");
            told = true;
        }
        interrupt.check()?;
        thread::sleep(Duration::from_millis(50));
    }
}

fn beside(directory: &Path, extension: &str) -> PathBuf {
    directory.with_extension(extension)
}

fn open(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_a_third_may_follow() {
        let base = std::env::temp_dir().join(format!("xtask-lock-{}", std::process::id()));
        let directory = base.join("demo");
        let first = take(&directory, &Interrupt::never()).unwrap();
        let refused = take(&directory, &Interrupt::never()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        take(&directory, &Interrupt::never()).unwrap();
        fs::remove_dir_all(base).unwrap();
    }
}
