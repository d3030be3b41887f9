//! The lists of people on disk: a line for each entry, the whole file replaced at once. What is
//! damaged is kept aside and told; what can be read of it holds.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use ipnet::IpNet;

use super::RuntimeLists;
use crate::admin::view::{ListKind, ListOrigin};

const NAME: &str = "lists.txt";

/// First line; the number rises when lines mean something else.
const HEADER: &str = "# limiter lists 1: made by `limiter allow|deny|trust add`, not by hand";

/// Last line: a file without it was cut short.
const END: &str = "# end";

/// What is there, by list; and what was wrong with it, for people.
pub(super) fn read(state: &Path) -> ([Vec<IpNet>; 3], Option<String>) {
    let path = state.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Default::default(), None),
        Err(error) => {
            return (Default::default(), Some(format!("{}: {error}", path.display())));
        }
    };
    let (lists, problem) = parse(&String::from_utf8_lossy(&bytes));
    let told = problem.map(|problem| {
        let mut aside = path.clone().into_os_string();
        aside.push(".broken");
        let kept = fs::copy(&path, &aside).is_ok();
        let kept = if kept { format!(", kept as {}", aside.display()) } else { String::new() };
        format!("{}: {problem}; the other entries hold{kept}", path.display())
    });
    (lists, told)
}

fn parse(text: &str) -> ([Vec<IpNet>; 3], Option<String>) {
    let mut lists: [Vec<IpNet>; 3] = Default::default();
    let mut wrong = Vec::new();
    let mut lines = text.lines().zip(1_u32..);
    if lines.next().is_none_or(|(line, _)| line != HEADER) {
        wrong.push("line 1 is not that of a file of lists".to_owned());
    }
    let mut has_ended = false;
    for (line, number) in lines {
        has_ended = line == END;
        let entry = line.split_once(' ').and_then(|(label, network)| {
            let kind = ListKind::ALL.into_iter().find(|kind| kind.label() == label)?;
            Some((kind, network.parse::<IpNet>().ok()?))
        });
        match entry {
            Some((kind, network)) => lists[kind as usize].push(network.trunc()),
            None if has_ended => {}
            None => wrong.push(format!("line {number} is damaged")),
        }
    }
    if !has_ended {
        wrong.push("its end is missing".to_owned());
    }
    let more = wrong.len().saturating_sub(3);
    wrong.truncate(3);
    if more > 0 {
        wrong.push(format!("and {more} more"));
    }
    (lists, (!wrong.is_empty()).then(|| wrong.join(", ")))
}

/// Writes all that is to be kept, so that a crash leaves the old file or the new one. Blocks.
pub(in crate::agent) fn save(state: &Path, lists: &RuntimeLists) -> Result<(), String> {
    let path = state.join(NAME);
    let fresh = state.join(format!("{NAME}.new"));
    let written = || {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        writeln!(file, "{HEADER}")?;
        for kind in ListKind::ALL {
            for network in &lists.get(kind, ListOrigin::Saved) {
                writeln!(file, "{} {network}", kind.label())?;
            }
        }
        writeln!(file, "{END}")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(state)?.sync_all()
    };
    written().map_err(|error| {
        format!("the lists cannot be saved: {}: {error} (they are in force)", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Networks;

    #[test]
    fn what_is_saved_is_read_and_damage_costs_only_what_is_damaged() {
        let state = std::env::temp_dir().join(format!("limiter-lists-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        assert_eq!(RuntimeLists::open(&state), (RuntimeLists::default(), None));
        let mut lists = RuntimeLists::default();
        let networks = |texts: &[&str]| -> Networks {
            texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
        };
        let two = networks(&["192.0.2.0/24", "2001:db8::1/128"]);
        lists.add(ListKind::Deny, ListOrigin::Saved, &two);
        lists.add(ListKind::Trust, ListOrigin::Saved, &networks(&["10.0.0.1/32"]));
        let kept = lists.clone();
        lists.add(ListKind::Allow, ListOrigin::Runtime, &networks(&["10.0.0.0/8"]));
        save(&state, &lists).unwrap();
        assert_eq!(RuntimeLists::open(&state), (kept, None));
        let path = state.join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("deny 192.0.2.0/24", "deny 192.0.2.0/2x")).unwrap();
        let (lists, problem) = RuntimeLists::open(&state);
        assert!(problem.unwrap().contains("line 2 is damaged"));
        assert_eq!(lists.get(ListKind::Deny, ListOrigin::Saved).len(), 1);
        assert_eq!(fs::read_to_string(state.join("lists.txt.broken")).unwrap().len(), text.len());
        fs::write(&path, text.replace(END, "")).unwrap();
        assert!(RuntimeLists::open(&state).1.is_some(), "cut short");
        fs::remove_dir_all(state).unwrap();
    }
}
