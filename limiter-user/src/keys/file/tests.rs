//! The keys file: round trip, corruption, permissions, concurrent writers.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::keys::{ApiKey, digest};

/// A directory of this test alone, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("limiter-keys-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("keys.toml")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn stored(name: &str) -> StoredKey {
    StoredKey {
        name: name.to_owned(),
        digest: ApiKey::generate().unwrap().digest(),
        tier: Some("premium".to_owned()),
        scopes: vec!["read".to_owned()],
        created: date::from_unix(1_768_472_625),
        expires: Some(date::from_unix(1_800_000_000)),
        replaced_digest: Some(digest(name.as_bytes())),
        replaced_until: Some(date::from_unix(1_768_559_025)),
        earlier: Vec::new(),
    }
}

#[test]
fn what_is_written_is_read() {
    let scratch = Scratch::new("round");
    let path = scratch.file();
    assert_eq!(KeysFile::read(&path).unwrap(), None);
    let key = stored("alice");
    KeysFile::update(&path, |file| {
        file.keys.push(key.clone());
        Ok(())
    })
    .unwrap();
    let file = KeysFile::read(&path).unwrap().unwrap();
    assert_eq!(file.keys, [key]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let records = file.records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.name == "alice"));
    assert_eq!(records[0].expires_unix_seconds, Some(1_800_000_000));
    assert_eq!(records[1].expires_unix_seconds, Some(1_768_559_025));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "the file and its lock");
}

#[test]
fn a_failed_change_writes_nothing() {
    let scratch = Scratch::new("failed");
    let failed: anyhow::Result<()> = KeysFile::update(&scratch.file(), |_| bail!("no"));
    assert!(failed.is_err() && !scratch.file().exists());
}

#[test]
fn corruption_is_refused_with_its_line_and_without_digests() {
    let key = stored("alice");
    let good = toml::to_string(&KeysFile { keys: vec![key.clone()] }).unwrap();
    assert!(KeysFile::parse(&good).is_ok());
    let hex = hex::encode(&key.digest);
    for (bad, word) in [
        (good.replace(&hex, &hex[1..]), "line 3: expected 64"),
        (good.replace("tier", "teir"), "unknown field `teir`"),
        (format!("{good}\n{good}"), "named \"alice\""),
        (format!("{good}\n{}", good.replace("alice", "bob")), "same digest"),
        (good.replace("alice", "shared-token"), "shared token"),
        (good.replace("alice", "\\u001b[2J"), "printable"),
        (good[..good.len() / 2].to_owned(), "line"),
        (
            good.lines()
                .filter(|line| !line.starts_with("replaced_until"))
                .collect::<Vec<_>>()
                .join("\n"),
            "together",
        ),
    ] {
        let error = format!("{:#}", KeysFile::parse(&bad).unwrap_err());
        assert!(error.contains(word), "{word}: {error}");
        assert!(!error.contains(&hex[1..]), "{error}");
    }
}

#[test]
fn open_permissions_are_refused() {
    let scratch = Scratch::new("mode");
    let path = scratch.file();
    fs::write(&path, "").unwrap();
    for (mode, ok) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = KeysFile::read(&path);
        assert_eq!(read.is_ok(), ok, "{mode:o}");
        if let Err(error) = read {
            let text = format!("{error:#}");
            assert!(text.contains(&format!("{mode:04o}")) && text.contains("chmod 600"), "{text}");
        }
    }
    assert!(read_private(&scratch.0, 10).unwrap_err().to_string().contains("regular"));
}

#[test]
fn concurrent_writers_lose_nothing() {
    let scratch = Scratch::new("race");
    let path = scratch.file();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let key = stored(&format!("k{writer}"));
                KeysFile::update(path, |file| {
                    file.keys.push(key);
                    Ok(())
                })
                .unwrap();
            });
        }
    });
    assert_eq!(KeysFile::read(&path).unwrap().unwrap().keys.len(), 8);
}
