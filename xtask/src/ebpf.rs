//! The eBPF objects: built by the chosen toolchain, put where the build of `limiter-user` finds
//! them, and loaded into this kernel before anything uses them. An object that was verified on
//! this kernel is not loaded again until it changes.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    clock::Stopwatch,
    command::{as_root, cargo, check, line, step},
    setup, toolchain,
    toolchain::Toolchain,
    workspace::{Workspace, write_if_changed},
};

/// Builds and verifies every eBPF object; returns the toolchain that built them.
pub(crate) fn build(workspace: &Workspace) -> Result<Toolchain> {
    let (toolchain, objects) = compile(workspace)?;
    verify(workspace, &objects)?;
    Ok(toolchain)
}

/// Builds every eBPF object without loading it, which takes no privilege.
pub(crate) fn compile(workspace: &Workspace) -> Result<(Toolchain, Vec<PathBuf>)> {
    let toolchain = toolchain::choose(workspace)?;
    let stopwatch = Stopwatch::start();
    let mut cargo = toolchain.cargo(&workspace.target.join("ebpf"), "build");
    cargo
        .current_dir(&workspace.root)
        .args(["--package", "limiter-ebpf", "--bins", "--profile", "bpf"])
        .arg("--message-format=json-render-diagnostics");
    let built = executables(&mut cargo)
        .with_context(|| format!("the eBPF programs do not build with {}", toolchain.kind))?;
    let mut objects = Vec::new();
    for Executable { name, path, .. } in built {
        let object = workspace.objects().join(format!("{name}.o"));
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if write_if_changed(&object, &bytes)? {
            eprintln!("xtask: built {} in {}", object.display(), stopwatch.text());
        }
        objects.push(object);
    }
    // Cargo names them as they get ready; what is remembered of them is compared in one order.
    objects.sort();
    remove_others(&workspace.objects(), &objects)?;
    if !objects.contains(&workspace.ebpf_object()) {
        bail!("limiter-ebpf has no program named limiter-ebpf");
    }
    Ok((toolchain, objects))
}

/// The `limiter` binary with the object in it; returns its path.
pub(crate) fn build_limiter(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    setup::for_builds()?;
    build(workspace)?;
    build_limiter_only(workspace, release)
}

/// As [`build_limiter`], when the object has just been built.
pub(crate) fn build_limiter_only(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    let mut cargo = cargo(workspace);
    cargo.args(["build", "--package", "limiter-user"]);
    if release {
        cargo.arg("--release");
    }
    step(if release { "building limiter (release)" } else { "building limiter" }, &mut cargo)?;
    Ok(workspace.limiter(release))
}

/// A program that cargo built.
#[derive(Debug)]
pub(crate) struct Executable {
    pub(crate) name: String,
    /// `bin`, `lib`, `test`, `bench`.
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
    /// Of the package it belongs to.
    pub(crate) manifest: PathBuf,
}

/// Runs a cargo that was given `--message-format=json-render-diagnostics` and returns what it
/// built; its diagnostics and progress pass through.
pub(crate) fn executables(cargo: &mut Command) -> Result<Vec<Executable>> {
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", line(cargo)))?;
    check(cargo, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect())
}

/// One line of cargo's messages, if it announces a program.
fn executable(message: &str) -> Option<Executable> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    Some(Executable {
        name: message.pointer("/target/name")?.as_str()?.to_owned(),
        kind: message.pointer("/target/kind/0")?.as_str()?.to_owned(),
        path: PathBuf::from(message.get("executable")?.as_str()?),
        manifest: PathBuf::from(message.get("manifest_path")?.as_str()?),
    })
}

/// An object of a program that is gone must not be embedded or measured by mistake.
fn remove_others(directory: &Path, objects: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "o") && !objects.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Loads the objects as root, in a process of its own, unless this kernel accepted them before.
fn verify(workspace: &Workspace, objects: &[PathBuf]) -> Result<()> {
    let record = workspace.state().join("verified");
    let state = fingerprint(objects)?;
    if let Ok(text) = fs::read_to_string(&record)
        && let Some((known, report)) = text.split_once('\n')
        && known == state
    {
        eprint!("{report}");
        eprintln!("xtask: eBPF objects unchanged since this kernel accepted them");
        return Ok(());
    }
    let this = std::env::current_exe().context("cannot find xtask itself")?;
    let mut loader = as_root(this, &[], "to load the eBPF programs into the kernel")?;
    loader.arg("verify-ebpf").args(objects).stderr(Stdio::inherit());
    let output = loader.output().with_context(|| format!("cannot start `{}`", line(&loader)))?;
    let report = String::from_utf8_lossy(&output.stdout);
    eprint!("{report}");
    if !output.status.success() {
        bail!("the eBPF objects did not pass");
    }
    write_if_changed(&record, format!("{state}\n{report}").as_bytes())?;
    Ok(())
}

/// Of the objects' contents, the kernel, and the code that judges them.
fn fingerprint(objects: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    include_str!("verify.rs").hash(&mut hasher);
    include_str!("stack.rs").hash(&mut hasher);
    for object in objects {
        object.hash(&mut hasher);
        fs::read(object)?.hash(&mut hasher);
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!("{:016x} {}", hasher.finish(), kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargo_messages() {
        let built = executable(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml",
                "target":{"kind":["bin"],"name":"a"},"executable":"/t/a"}"#,
        )
        .unwrap();
        assert_eq!((built.name.as_str(), built.kind.as_str()), ("a", "bin"));
        assert_eq!(built.path, Path::new("/t/a"));
        let library = r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml",
            "target":{"kind":["lib"],"name":"a"},"executable":null}"#;
        assert!(executable(library).is_none());
        assert!(executable(r#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(executable("not json").is_none());
    }
}
