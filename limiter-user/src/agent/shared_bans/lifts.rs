//! Lifts that other hosts were not told yet, on disk: a line for each, the whole file replaced at
//! once, none where there is none. What cannot be read of it is told and left out.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::Name;
use crate::{policy::BanScope, store::bans::MAX_BANS};

const NAME: &str = "lifts.txt";

/// First line; the number rises when lines mean something else.
const HEADER: &str = "# limiter lifts 1: to be told to other hosts, not made by hand";

/// What was kept, at most as many as there are bans in a store.
pub(super) fn read(state: &Path) -> Vec<Name> {
    let path = state.join(NAME);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            log::warn!("lifts that other hosts were not told: {}: {error}", path.display());
            return Vec::new();
        }
    };
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        log::warn!("{} is not a file of lifts, and is not read", path.display());
        return Vec::new();
    }
    let (mut lifts, mut damaged) = (Vec::new(), 0);
    for line in lines.take(MAX_BANS) {
        match parse(line) {
            Some(name) => lifts.push(name),
            None => damaged += 1,
        }
    }
    if damaged > 0 {
        log::warn!("{}: {damaged} damaged lines are left out", path.display());
    }
    lifts
}

fn parse(line: &str) -> Option<Name> {
    let (label, prefix) = line.split_once(' ')?;
    let scope = [BanScope::Kernel, BanScope::Http].into_iter().find(|it| it.label() == label)?;
    Some((prefix.parse().ok()?, scope))
}

/// Keeps these, so that a crash leaves the old file or the new one. Blocks.
pub(super) fn write(state: &Path, lifts: &[Name]) -> Result<(), String> {
    let path = state.join(NAME);
    let written = || {
        if lifts.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let fresh = state.join(format!("{NAME}.new"));
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        writeln!(file, "{HEADER}")?;
        for (prefix, scope) in lifts {
            writeln!(file, "{} {prefix}", scope.label())?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(state)?.sync_all()
    };
    written().map_err(|error| {
        format!("what other hosts are to lift cannot be saved: {}: {error}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_and_damage_costs_only_what_is_damaged() {
        let state = std::env::temp_dir().join(format!("limiter-lifts-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        assert!(read(&state).is_empty());
        let lifts: Vec<Name> =
            [("192.0.2.1/32", BanScope::Http), ("2001:db8::/64", BanScope::Kernel)]
                .map(|(prefix, scope)| (prefix.parse().unwrap(), scope))
                .to_vec();
        write(&state, &lifts).unwrap();
        assert_eq!(read(&state), lifts);
        let path = state.join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("http 192.0.2.1/32", "attic 192.0.2.1/32")).unwrap();
        assert_eq!(read(&state), lifts[1..]);
        fs::write(&path, text.replace("lifts 1", "lifts 2")).unwrap();
        assert!(read(&state).is_empty());
        write(&state, &[]).unwrap();
        assert!(!path.exists());
        write(&state, &[]).unwrap();
        fs::remove_dir_all(state).unwrap();
    }
}
