//! Python code that tests talk to and that no distribution has: in a directory of its own below
//! the target directory, exactly the files whose digests `requirements.txt` names.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    command::{command, step},
    workspace::Workspace,
};

/// Fills the directory if it is not what `requirements.txt` asks for; where it is.
pub(crate) fn peers(workspace: &Workspace) -> Result<PathBuf> {
    let place = workspace.target.join("peers");
    let wanted = workspace.root.join("tests/data/peers/requirements.txt");
    let text = fs::read(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    let installed = place.join("installed.txt");
    if fs::read(&installed).is_ok_and(|found| found == text) {
        return Ok(place);
    }
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot empty {}", place.display()))?;
    }
    let mut pip = command("/usr/bin/python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args([
            "--root-user-action=ignore",
            "--only-binary=:all:",
            "--require-hashes",
            "--requirement",
        ])
        .arg(&wanted)
        .arg("--target")
        .arg(&place);
    step("installing other people's Python code into the target directory, for tests", &mut pip)?;
    fs::write(&installed, text)?;
    Ok(place)
}
