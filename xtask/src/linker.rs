//! `bpf-linker`, built against the LLVM of the compiler whose bitcode it reads: an older LLVM
//! cannot read the bitcode of a newer one. Found if one fits, else built by `cargo install`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    command::{capture, command, find_program, step},
    setup::{self, Need},
    workspace::Workspace,
};

/// The release that is built where none fits, and the LLVM majors that it has a feature for.
const VERSION: &str = "0.13.0";
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// A `bpf-linker` for `llvm_major`, installing what it takes.
pub(crate) fn ensure(workspace: &Workspace, llvm_major: u32) -> Result<PathBuf> {
    let own_root = workspace.state().join(format!("llvm-{llvm_major}"));
    let own = own_root.join("bin/bpf-linker");
    let cargo_bin = cargo_home().join("bin/bpf-linker");
    let in_path = find_program("bpf-linker");
    let candidates = [Some(own), in_path.clone(), Some(cargo_bin.clone())];
    if let Some(found) = candidates.into_iter().flatten().find(|path| fits(path, llvm_major)) {
        return Ok(found);
    }
    // One that serves another compiler is left alone: ours then goes below the target directory.
    let occupied = in_path.is_some() || cargo_bin.exists();
    let root = if occupied { own_root } else { cargo_home() };
    install(workspace, llvm_major, &root)?;
    let installed = root.join("bin/bpf-linker");
    if !fits(&installed, llvm_major) {
        bail!("{} was just built and does not run", installed.display());
    }
    Ok(installed)
}

fn install(workspace: &Workspace, llvm_major: u32, root: &Path) -> Result<()> {
    if !LLVM_MAJORS.contains(&llvm_major) {
        bail!(
            "bpf-linker {VERSION} can be built for LLVM {} to {}, the compiler has {llvm_major}",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end()
        );
    }
    let prefix = format!("/usr/lib/llvm-{llvm_major}");
    let purpose = "to build bpf-linker for the compiler's LLVM";
    setup::for_builds()?;
    setup::ensure(&[
        Need::file(
            format!("{prefix}/include/llvm-c/Core.h"),
            format!("llvm-{llvm_major}-dev"),
            purpose,
        ),
        Need::program("c++", "g++", purpose),
    ])?;
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = [PathBuf::from(&prefix).join("bin")];
    let path = env::join_paths(directories.into_iter().chain(env::split_paths(&path)))?;
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
        .arg("--features")
        .arg(format!("llvm-{llvm_major}"))
        .arg("--root")
        .arg(root)
        .arg("--target-dir")
        .arg(workspace.state().join("bpf-linker-build"))
        // Needed where libLLVM is not among the system's libraries, as with Debian's packages.
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path);
    let what = format!("building bpf-linker {VERSION} for LLVM {llvm_major}");
    step(&format!("{what} (once, some minutes)"), &mut cargo)
}

/// Whether it runs and, as far as can be seen without linking, has the right LLVM.
fn fits(linker: &Path, llvm_major: u32) -> bool {
    linker.is_file()
        && capture(command(linker).arg("--version")).is_ok()
        && fs::read(linker)
            .is_ok_and(|binary| llvm_of(&binary).is_none_or(|major| major == llvm_major))
}

/// The major version of the libLLVM that a program is linked to; `None` if it is linked in, or
/// not said.
fn llvm_of(binary: &[u8]) -> Option<u32> {
    [&b"libLLVM.so."[..], b"libLLVM-"].into_iter().find_map(|name| {
        binary
            .windows(name.len())
            .enumerate()
            .filter(|(_, window)| *window == name)
            .find_map(|(at, _)| leading_number(&binary[at + name.len()..]))
    })
}

fn leading_number(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_the_library_name() {
        assert_eq!(llvm_of(b"\0libffi.so.8\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(llvm_of(b"libLLVM.so.\0 and later libLLVM.so.23.0"), Some(23));
        assert_eq!(llvm_of(b"statically linked"), None);
        assert_eq!(llvm_of(b"libLLVM.so."), None);
    }
}
