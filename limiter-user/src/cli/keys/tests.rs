//! One key from making to revocation, and what is printed where.

use std::cell::Cell;

use super::*;
use crate::keys::{digest, looks_like_ours};

/// Runs one command; what it printed.
fn serve(
    path: &Path,
    now_seconds: u64,
    command: &KeysCommand,
) -> (anyhow::Result<()>, String, String) {
    let told = Cell::new(0);
    let notify = || {
        told.set(told.get() + 1);
        Ok(AgentNotice::NotRunning)
    };
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let mut desk = Desk { path, now_seconds, notify: &notify, out: &mut out, notes: &mut notes };
    let done = desk.serve(command);
    let changes = !matches!(command, KeysCommand::List);
    assert_eq!(told.get(), u32::from(changes && done.is_ok()));
    (done, String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
}

#[test]
fn a_key_from_making_to_revocation() {
    let directory = std::env::temp_dir().join(format!("limiter-keys-cli-{}", std::process::id()));
    let path = directory.join("keys.toml");
    let new = KeysCommand::New {
        name: "alice".to_owned(),
        tier: Some("premium".to_owned()),
        scope: vec!["read".to_owned()],
        expires: Some(Duration::from_hours(48)),
    };
    let (done, key, notes) = serve(&path, 1_000, &new);
    done.unwrap();
    let key = key.strip_suffix('\n').unwrap();
    assert!(looks_like_ours(key) && !notes.contains(key));
    let records = || KeysFile::read(&path).unwrap().unwrap().records();
    assert_eq!(records()[0].digest, digest(key.as_bytes()));
    assert_eq!(records()[0].expires_unix_seconds, Some(1_000 + 172_800));
    assert!(serve(&path, 1_000, &new).0.unwrap_err().to_string().contains("rotate"));

    let rotate = KeysCommand::Rotate { name: "alice".to_owned(), grace: Duration::from_hours(24) };
    let (done, next, _) = serve(&path, 2_000, &rotate);
    done.unwrap();
    let overlap = records();
    assert_eq!(overlap[0].digest, digest(next.trim().as_bytes()));
    assert_eq!(overlap[1].digest, digest(key.as_bytes()));
    assert_eq!(overlap[1].expires_unix_seconds, Some(2_000 + 86_400));

    let (done, listed, _) = serve(&path, 2_000, &KeysCommand::List);
    done.unwrap();
    assert!(listed.contains("alice") && listed.contains("the key it replaced ends"), "{listed}");

    let revoke = KeysCommand::Revoke { name: "alice".to_owned() };
    serve(&path, 3_000, &revoke).0.unwrap();
    assert!(records().is_empty());
    assert!(serve(&path, 3_000, &revoke).0.is_err());
    std::fs::remove_dir_all(directory).unwrap();
}
