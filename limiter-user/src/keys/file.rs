//! The keys file: digests, names and rights, read strictly and replaced atomically.
//!
//! Writers hold a lock file beside it; readers never see half a file. A file that others may read
//! or that a group may write is refused: whoever writes it lets himself in.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use toml::value::Datetime;

use super::{check_label, check_name, date};
use crate::policy::http::KeyRecord;

/// More than this is not a keys file (about 50,000 keys).
const MAX_BYTES: u64 = 16 << 20;
/// Mode bits that let others read, or a group or others write.
const TOO_OPEN: u32 = 0o026;

/// All keys, as stored.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// `[[key]]`, in order of making.
    #[serde(default, rename = "key")]
    pub keys: Vec<StoredKey>,
}

/// One `[[key]]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// Principal, unique.
    pub name: String,
    /// SHA-256 of the key, 64 hexadecimal digits.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
    /// Tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When it was made, or last rotated.
    pub created: Datetime,
    /// When it ends; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Datetime>,
    /// The key it replaced, good until `replaced_until`.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub replaced_digest: Option<[u8; 32]>,
    /// When the replaced key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_until: Option<Datetime>,
    /// Those that it replaced in turn, if they are good for a while yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierKey>,
}

/// A key that was replaced twice within its grace.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierKey {
    /// SHA-256 of the key, 64 hexadecimal digits.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
    /// When it ends.
    pub until: Datetime,
}

impl KeysFile {
    /// Parses and checks `text`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        // The parser's message without its excerpt: no digest in output.
        let file: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..text.floor_char_boundary(at)].matches('\n').count() + 1;
            anyhow::anyhow!("line {line}: {}", error.message())
        })?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> anyhow::Result<()> {
        let (mut names, mut digests) = (HashSet::new(), HashSet::new());
        for key in &self.keys {
            let name = key.name.escape_debug();
            check_name(&key.name).map_err(|why| anyhow::anyhow!("key \"{name}\": {why}"))?;
            for label in key.tier.iter().chain(&key.scopes) {
                check_label(label).map_err(|why| anyhow::anyhow!("key \"{name}\": {why}"))?;
            }
            ensure!(names.insert(&key.name), "two keys are named \"{name}\"");
            let replaced = key.replaced_digest.into_iter();
            let earlier = key.earlier.iter().map(|earlier| earlier.digest);
            for digest in [key.digest].into_iter().chain(replaced).chain(earlier) {
                ensure!(digests.insert(digest), "key \"{name}\": another key has the same digest");
            }
            ensure!(
                key.replaced_digest.is_some() == key.replaced_until.is_some(),
                "key \"{name}\": replaced_digest and replaced_until go together"
            );
            let dates = [&key.expires, &key.replaced_until].into_iter().flatten();
            for when in dates.chain(key.earlier.iter().map(|earlier| &earlier.until)) {
                ensure!(date::to_unix(when).is_some(), "key \"{name}\": {when} is not a date");
            }
        }
        Ok(())
    }

    /// The file at `path`; `None` where there is none.
    pub fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match read_private(path, MAX_BYTES) {
            Ok(text) => text,
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&text).with_context(|| path.display().to_string()).map(Some)
    }

    /// Replaces the file at `path`: written beside, synced, renamed; mode 0600.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        self.check()?;
        let body = toml::to_string(self).context("the keys cannot be written as TOML")?;
        let text = format!(
            "# Written by `limiter keys`. Digests only; no key can be read from it.\n{body}"
        );
        let beside = with_suffix(path, &format!(".{}.new", std::process::id()));
        let written = write_synced(&beside, &text).and_then(|()| fs::rename(&beside, path));
        if let Err(error) = written {
            // Best effort: the next writer with the same process id would fail on it.
            drop(fs::remove_file(&beside));
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        let directory = directory_of(path);
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(|| format!("cannot sync {}", directory.display()))
    }

    /// Reads, changes and replaces the file under its lock; nothing is written if `change` fails.
    pub fn update<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let directory = directory_of(path);
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let lock_path = with_suffix(path, ".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        let _locked = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {}", lock_path.display()))?;
        let mut file = Self::read(path)?.unwrap_or_default();
        let answer = change(&mut file)?;
        file.write(path)?;
        Ok(answer)
    }

    /// As the proxy knows them: a rotated key is several records with the same name.
    pub fn records(&self) -> Vec<KeyRecord> {
        self.keys.iter().flat_map(StoredKey::records).collect()
    }
}

impl StoredKey {
    /// The same principal has this key from now on; the one that it had, and those before it that
    /// are good yet, end `until` or when that was said of them, or all of them now.
    pub fn replace(&mut self, digest: [u8; 32], now_seconds: u64, until: Option<Datetime>) {
        let is_good =
            |end: &Datetime| date::to_unix(end).is_some_and(|seconds| seconds > now_seconds);
        let replaced = self.replaced_digest.zip(self.replaced_until);
        self.earlier.extend(replaced.map(|(digest, until)| EarlierKey { digest, until }));
        self.earlier.retain(|earlier| until.is_some() && is_good(&earlier.until));
        self.replaced_digest = until.is_some().then_some(self.digest);
        self.replaced_until = until;
        self.digest = digest;
        self.created = date::from_unix(now_seconds);
    }

    fn records(&self) -> impl Iterator<Item = KeyRecord> {
        let expires = self.expires.as_ref().and_then(date::to_unix);
        let record = |digest, expires_unix_seconds| KeyRecord {
            name: self.name.clone(),
            tier: self.tier.clone(),
            scopes: self.scopes.clone(),
            digest,
            expires_unix_seconds,
        };
        let replaced = self.replaced_digest.zip(self.replaced_until);
        let earlier = self.earlier.iter().map(|earlier| (earlier.digest, earlier.until));
        let replaced = replaced.into_iter().chain(earlier).filter_map(|(digest, until)| {
            let until = date::to_unix(&until)?;
            Some(record(digest, Some(expires.map_or(until, |end| end.min(until)))))
        });
        let replaced: Vec<_> = replaced.collect();
        std::iter::once(record(self.digest, expires)).chain(replaced)
    }
}

/// Text of a file that holds or guards secrets: a regular file, at most `max_bytes`, readable by
/// its owner and group and writable by its owner only.
pub fn read_private(path: &Path, max_bytes: u64) -> anyhow::Result<String> {
    let shown = path.display();
    // Opening a FIFO without this would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("cannot open {shown}"))?;
    let metadata = file.metadata().with_context(|| format!("cannot examine {shown}"))?;
    ensure!(metadata.is_file(), "{shown} is not a regular file");
    let mode = metadata.mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        let who = if mode & 0o006 == 0 { "its group can write it" } else { "everybody can use it" };
        bail!("{shown} has mode {mode:04o}: {who}; run `chmod 600 {shown}`");
    }
    let mut text = String::new();
    let read = file
        .take(max_bytes + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {shown}"))?;
    ensure!(read as u64 <= max_bytes, "{shown} is larger than {max_bytes} bytes");
    Ok(text)
}

/// Whether the error is that there is no such file.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Digests as 64 lower-case hexadecimal digits.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(digest: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&encode(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(input)?;
        decode(&text).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }

    pub(super) fn encode(digest: &[u8; 32]) -> String {
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        digest.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    fn decode(text: &str) -> Option<[u8; 32]> {
        let nibbles: Option<Vec<u8>> = text
            .chars()
            .map(|digit| digit.to_digit(16).and_then(|nibble| u8::try_from(nibble).ok()))
            .collect();
        let bytes: Vec<u8> = nibbles?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, nibble| byte << 4 | nibble))
            .collect();
        if text.len() == 64 { bytes.try_into().ok() } else { None }
    }
}

/// As [`hex`], where there may be none.
mod optional_hex {
    use serde::{Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's `with` passes a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        digest: &Option<[u8; 32]>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => super::hex::serialize(digest, out),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        super::hex::deserialize(input).map(Some)
    }
}

#[cfg(test)]
mod tests;
