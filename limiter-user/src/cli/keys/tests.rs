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
    let header = "X-Custom";
    let mut desk =
        Desk { path, header, now_seconds, notify: &notify, out: &mut out, notes: &mut notes };
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
    assert!(looks_like_ours(key) && !notes.contains(key) && notes.contains("send it as X-Custom"));
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

    // Whoever rotates again ends nobody's key early.
    let again = KeysCommand::Rotate { name: "alice".to_owned(), grace: Duration::from_hours(1) };
    serve(&path, 2_100, &again).0.unwrap();
    let ends: Vec<_> = records().iter().map(|record| record.expires_unix_seconds).collect();
    let end = Some(1_000 + 172_800);
    assert_eq!(ends, [end, Some(2_100 + 3_600), Some(2_000 + 86_400)]);
    assert_eq!(records()[2].digest, digest(key.as_bytes()));

    let (done, listed, _) = serve(&path, 2_000, &KeysCommand::List);
    done.unwrap();
    assert!(listed.contains("(one before it ends"), "{listed}");
    assert!(listed.contains("alice") && listed.contains("the key it replaced ends"), "{listed}");

    // As often as that is, those that have ended count no more.
    let minutes = |count: u64| KeysCommand::Rotate {
        name: "alice".to_owned(),
        grace: Duration::from_mins(count),
    };
    for _ in 0..MAX_EARLIER - 1 {
        serve(&path, 2_100, &minutes(1)).0.unwrap();
    }
    let error = serve(&path, 2_100, &minutes(1)).0.unwrap_err().to_string();
    assert!(error.contains("`--grace 0s` ends them"), "{error}");
    serve(&path, 2_161, &minutes(1)).0.unwrap();

    let now = KeysCommand::Rotate { name: "alice".to_owned(), grace: Duration::ZERO };
    serve(&path, 2_200, &now).0.unwrap();
    assert_eq!(records().len(), 1, "what has leaked ends, and what was before it");

    let revoke = KeysCommand::Revoke { name: "alice".to_owned() };
    serve(&path, 3_000, &revoke).0.unwrap();
    assert!(records().is_empty());
    assert!(serve(&path, 3_000, &revoke).0.is_err());
    std::fs::remove_dir_all(directory).unwrap();
}
