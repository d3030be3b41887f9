//! `net.ipv4.tcp_syncookies` on loan: the value that was found is on disk before another is
//! written, and comes back. A value that somebody else sets meanwhile is his to keep.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// IPv4 and IPv6, of the network namespace of this process.
const SETTING: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// Name of the file in the state directory.
const FILE: &str = "tcp_syncookies.json";

/// What was found and what was put in its place.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Loan {
    /// The boot after which the value holds: another one begins with the host's own again.
    boot: String,
    /// The network namespace whose value it is.
    namespace: u64,
    found: u8,
    written: u8,
}

/// The setting.
#[derive(Debug)]
pub(super) struct Setting {
    value_at: PathBuf,
    file: PathBuf,
    loan: Option<Loan>,
    /// The network namespace of a loan that cannot be paid back from here.
    elsewhere: Option<u64>,
}

impl Setting {
    /// With what an earlier agent left in the state directory.
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        Self::at(Path::new(SETTING), state)
    }

    fn at(setting: &Path, state: &Path) -> io::Result<Self> {
        let file = state.join(FILE);
        let loan = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Loan>(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(in_file(&file, &error)),
        };
        let mut opened =
            Self { value_at: setting.to_path_buf(), file, loan: None, elsewhere: None };
        match loan {
            Some(loan) if loan.boot == boot()? => {
                if loan.namespace == namespace()? {
                    opened.loan = Some(loan);
                } else {
                    opened.elsewhere = Some(loan.namespace);
                }
            }
            Some(_) | None => opened.forget()?,
        }
        Ok(opened)
    }

    /// The value now.
    pub(super) fn value(&self) -> io::Result<u8> {
        let text =
            fs::read_to_string(&self.value_at).map_err(|error| in_file(&self.value_at, &error))?;
        text.trim().parse().map_err(|_| in_file(&self.value_at, &io::Error::other("not a number")))
    }

    /// Whether a value of ours is in place, as far as is known.
    pub(super) const fn is_lent(&self) -> bool {
        self.loan.is_some()
    }

    /// The network namespace in which an agent has left a value of its own, if that is another one.
    pub(super) const fn lent_elsewhere(&self) -> Option<u64> {
        self.elsewhere
    }

    /// Whether somebody else has changed the value that was put in place: it is then his.
    pub(super) fn was_taken_over(&mut self) -> io::Result<bool> {
        let Some(loan) = &self.loan else { return Ok(false) };
        if self.value()? == loan.written {
            return Ok(false);
        }
        self.forget()?;
        Ok(true)
    }

    /// Puts a value in place of what is found.
    pub(super) fn lend(&mut self, value: u8) -> io::Result<()> {
        self.restore()?;
        let loan =
            Loan { boot: boot()?, namespace: namespace()?, found: self.value()?, written: value };
        if loan.found == value {
            return Ok(());
        }
        self.save(&loan).map_err(|error| in_file(&self.file, &error))?;
        let written = self.write(value);
        if written.is_err() {
            self.forget()?;
        } else {
            self.loan = Some(loan);
        }
        written
    }

    /// Puts back what was found, unless somebody else has changed it since; whether it did.
    pub(super) fn restore(&mut self) -> io::Result<bool> {
        let Some(loan) = self.loan.clone() else { return Ok(false) };
        let is_ours = self.value()? == loan.written;
        if is_ours {
            self.write(loan.found)?;
        }
        self.forget()?;
        Ok(is_ours)
    }

    fn write(&self, value: u8) -> io::Result<()> {
        // Without `create`: a kernel without SYN cookies has no such file.
        let mut file = OpenOptions::new()
            .write(true)
            .open(&self.value_at)
            .map_err(|error| in_file(&self.value_at, &error))?;
        write!(file, "{value}").map_err(|error| in_file(&self.value_at, &error))
    }

    /// On the disk before the setting is changed.
    fn save(&self, loan: &Loan) -> io::Result<()> {
        let temporary = self.file.with_extension("json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(loan)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.file)?;
        self.sync_directory()
    }

    fn forget(&mut self) -> io::Result<()> {
        self.loan = None;
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(in_file(&self.file, &error)),
            Ok(()) => self.sync_directory(),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()
    }
}

/// What tells this boot of the host from every other one.
pub(in crate::agent) fn boot() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|error| in_file(path, &error))?;
    Ok(text.trim().to_owned())
}

fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

fn in_file(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a file that stands for the setting.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str, value: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("limiter-sysctl-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            let place = Self(path);
            place.set(value);
            place
        }

        fn set(&self, value: &str) {
            fs::write(self.0.join("setting"), value).unwrap();
        }

        fn open(&self) -> Setting {
            Setting::at(&self.0.join("setting"), &self.0).unwrap()
        }

        fn is_remembered(&self) -> bool {
            self.0.join(FILE).exists()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn what_was_found_comes_back_also_by_another_agent() {
        let place = Place::new("back", "0\n");
        let mut setting = place.open();
        setting.lend(1).unwrap();
        assert_eq!(setting.value().unwrap(), 1);
        setting.lend(2).unwrap();
        assert!(place.is_remembered());
        drop(setting);
        let mut setting = place.open();
        assert!(setting.is_lent());
        assert!(!setting.was_taken_over().unwrap());
        assert!(setting.restore().unwrap());
        assert_eq!(setting.value().unwrap(), 0);
        assert!(!place.is_remembered());
        assert!(!setting.restore().unwrap());
    }

    #[test]
    fn what_needs_no_change_is_not_remembered() {
        let place = Place::new("same", "1\n");
        let mut setting = place.open();
        setting.lend(1).unwrap();
        assert!(!place.is_remembered() && !setting.is_lent());
    }

    #[test]
    fn a_value_of_somebody_else_stays() {
        let place = Place::new("other", "0\n");
        let mut setting = place.open();
        setting.lend(1).unwrap();
        place.set("2\n");
        assert!(setting.was_taken_over().unwrap());
        assert!(!setting.restore().unwrap());
        assert_eq!(setting.value().unwrap(), 2);

        place.set("0\n");
        setting.lend(1).unwrap();
        place.set("2\n");
        assert!(!setting.restore().unwrap());
        assert_eq!(setting.value().unwrap(), 2);
        assert!(!place.is_remembered());
    }

    #[test]
    fn what_was_found_before_another_boot_is_forgotten() {
        let place = Place::new("boot", "1\n");
        let loan =
            Loan { boot: "before".into(), namespace: namespace().unwrap(), found: 0, written: 1 };
        fs::write(place.0.join(FILE), serde_json::to_vec(&loan).unwrap()).unwrap();
        let mut setting = place.open();
        assert!(!setting.is_lent() && !place.is_remembered());
        assert!(!setting.restore().unwrap());
        assert_eq!(setting.value().unwrap(), 1);
        fs::write(place.0.join(FILE), "nonsense").unwrap();
        assert!(!place.open().is_lent() && !place.is_remembered());
    }

    #[test]
    fn what_belongs_to_another_namespace_is_neither_restored_nor_forgotten() {
        let place = Place::new("elsewhere", "1\n");
        let loan = Loan { boot: boot().unwrap(), namespace: 1, found: 0, written: 1 };
        fs::write(place.0.join(FILE), serde_json::to_vec(&loan).unwrap()).unwrap();
        let mut setting = place.open();
        assert_eq!((setting.is_lent(), setting.lent_elsewhere()), (false, Some(1)));
        assert!(!setting.restore().unwrap());
        assert_eq!(setting.value().unwrap(), 1);
        assert!(place.is_remembered());
    }

    #[test]
    fn what_cannot_be_written_is_said_and_not_remembered() {
        let place = Place::new("missing", "0\n");
        let mut setting = place.open();
        fs::remove_file(place.0.join("setting")).unwrap();
        let error = setting.lend(1).unwrap_err().to_string();
        assert!(error.contains("/setting: "), "{error}");
        assert!(!place.is_remembered());
    }
}
