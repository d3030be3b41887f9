//! Which Rust compiles the eBPF programs: the first of three that has core's sources and whose
//! bitcode a `bpf-linker` reads, tried by compiling and linking a small program. The choice is
//! remembered below the target directory and checked cheaply from then on, so that what needs a
//! network is tried once.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{capture, command, find_program, quietly, run},
    linker,
    setup::{self, Need},
    workspace::{Workspace, write_if_changed},
};

/// Tried when the toolchain in use cannot be given core's sources. Its LLVM is one that
/// `bpf-linker` can be built for.
const NIGHTLY: &str = "nightly-2026-05-20";
const COMPONENT_LIMIT: Duration = Duration::from_secs(90);
const NIGHTLY_LIMIT: Duration = Duration::from_mins(5);

/// `LIMITER_EBPF_TOOLCHAIN` names one of these to try no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The toolchain that runs xtask.
    InUse,
    /// [`NIGHTLY`], through rustup.
    Nightly,
    /// `/usr/bin/rustc` from the packages rustc-web, cargo-web and rust-web-src.
    Debian,
}

impl Kind {
    const ALL: [Self; 3] = [Self::InUse, Self::Nightly, Self::Debian];

    fn label(self) -> &'static str {
        match self {
            Self::InUse => "in-use",
            Self::Nightly => "nightly",
            Self::Debian => "debian",
        }
    }

    fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => formatter.write_str("the Rust toolchain in use"),
            Self::Nightly => write!(formatter, "rustup's {NIGHTLY}"),
            Self::Debian => formatter.write_str("Debian's Rust (/usr/bin/rustc)"),
        }
    }
}

/// A Rust that compiles for BPF, and its linker.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) kind: Kind,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Cargo of this toolchain with `arguments`, set up to compile for BPF in `target`.
    pub(crate) fn cargo(&self, target: &Path, subcommand: &str) -> Command {
        let mut cargo = program(self.kind, "cargo");
        let flags = [
            format!("linker={}", self.linker.display()),
            // v3: 32-bit jumps and ALU, in every kernel since 5.1.
            "target-cpu=v3".to_owned(),
            "link-arg=--btf".to_owned(),
            "debuginfo=2".to_owned(),
        ];
        let flags = flags.map(|flag| format!("-C\x1f{flag}")).join("\x1f");
        cargo
            .arg(subcommand)
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("RUSTC_BOOTSTRAP", "1");
        cargo
    }

    /// Whether it has clippy for the programs it compiles.
    pub(crate) fn has_clippy(&self) -> bool {
        self.kind != Kind::Debian
            && capture(program(self.kind, "cargo").args(["clippy", "-V"])).is_ok()
    }
}

/// The remembered toolchain if it is unchanged, else the first that works.
pub(crate) fn choose(workspace: &Workspace) -> Result<Toolchain> {
    let record = workspace.state().join("ebpf-toolchain");
    let wanted = wanted()?;
    if let Some(known) = recall(&record, wanted) {
        return Ok(known);
    }
    let mut refusals = Vec::new();
    for kind in Kind::ALL {
        if wanted.is_some_and(|wanted| wanted != kind) {
            continue;
        }
        match attempt(workspace, kind) {
            Ok(toolchain) => {
                eprintln!("xtask: eBPF programs are compiled by {kind}");
                write_if_changed(&record, remembered(&toolchain)?.as_bytes())?;
                return Ok(toolchain);
            }
            Err(error) => {
                eprintln!("xtask: {kind} cannot compile eBPF programs: {error:#}");
                refusals.push(format!("  {kind}: {error:#}"));
            }
        }
    }
    bail!("no Rust toolchain compiles eBPF programs:\n{}", refusals.join("\n"))
}

fn wanted() -> Result<Option<Kind>> {
    match env::var("LIMITER_EBPF_TOOLCHAIN") {
        Err(_) => Ok(None),
        Ok(label) => match Kind::parse(&label) {
            Some(kind) => Ok(Some(kind)),
            None => bail!("LIMITER_EBPF_TOOLCHAIN is {label:?}; allowed: in-use, nightly, debian"),
        },
    }
}

fn attempt(workspace: &Workspace, kind: Kind) -> Result<Toolchain> {
    match kind {
        Kind::InUse => add_sources(kind)?,
        Kind::Nightly => {
            if capture(program(kind, "rustc").arg("-V")).is_err() {
                install_nightly()?;
            }
            add_sources(kind)?;
        }
        Kind::Debian => {
            let purpose = "to compile eBPF programs";
            setup::ensure(&[
                Need::file("/usr/bin/rustc".into(), "rustc-web".into(), purpose),
                Need::file("/usr/bin/cargo".into(), "cargo-web".into(), purpose),
                Need::file(core_sources(Path::new("/usr")), "rust-web-src".into(), purpose),
            ])?;
        }
    }
    let version = capture(program(kind, "rustc").arg("-vV"))?;
    let llvm = llvm_major(&version).context("`rustc -vV` does not say which LLVM it has")?;
    let linker = linker::ensure(workspace, llvm)?;
    let toolchain = Toolchain { kind, linker };
    probe(workspace, &toolchain)?;
    Ok(toolchain)
}

/// Compiles core and links an empty program, so that a wrong LLVM or a core that needs a crate
/// which cannot be fetched shows here and not in the middle of the real build.
fn probe(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let directory = workspace.state().join("probe");
    let manifest = "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n\
                    [profile.release]\npanic = \"abort\"\nlto = true\n";
    let source = "#![no_std]\n#![no_main]\n\
                  #[unsafe(no_mangle)]\n\
                  #[unsafe(link_section = \"xdp\")]\n\
                  extern \"C\" fn probe(context: *const u8) -> u32 { context.is_null().into() }\n\
                  #[panic_handler]\nfn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }\n";
    write_if_changed(&directory.join("Cargo.toml"), manifest.as_bytes())?;
    write_if_changed(&directory.join("src/main.rs"), source.as_bytes())?;
    eprintln!("xtask: trying {} (compiles core once)", toolchain.kind);
    let mut cargo = toolchain.cargo(&directory.join("target"), "build");
    run(cargo.args(["--release", "--quiet"]).current_dir(&directory)).with_context(|| {
        format!(
            "core does not compile, or {} does not read this compiler's bitcode",
            toolchain.linker.display()
        )
    })
}

/// Sees to it that core's sources are there, asking rustup once.
fn add_sources(kind: Kind) -> Result<()> {
    let sysroot = capture(program(kind, "rustc").args(["--print", "sysroot"]))?;
    let sources = core_sources(Path::new(sysroot.trim()));
    if Path::new(&sources).exists() {
        return Ok(());
    }
    let Some(rustup) = find_program("rustup") else {
        bail!("no sources of core ({sources}), and no rustup to add them");
    };
    eprintln!("xtask: adding the component rust-src to {kind} (sources of core)");
    let mut add = command(rustup);
    add.args(["component", "add", "rust-src"]);
    if kind == Kind::Nightly {
        add.args(["--toolchain", NIGHTLY]);
    }
    if let Err(message) = quietly(&mut add, COMPONENT_LIMIT) {
        bail!("no sources of core, and rustup cannot add them: {message}");
    }
    Ok(())
}

fn install_nightly() -> Result<()> {
    let Some(rustup) = find_program("rustup") else { bail!("no rustup to install it with") };
    eprintln!("xtask: installing {NIGHTLY} with rustup");
    let mut install = command(rustup);
    install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "-c", "rust-src"]);
    match quietly(&mut install, NIGHTLY_LIMIT) {
        Ok(()) => Ok(()),
        Err(message) => bail!("not installed, and rustup cannot: {message}"),
    }
}

/// `rustc` or `cargo` of `kind`, with nothing in its environment that points to another compiler
/// or adds flags meant for the host.
fn program(kind: Kind, name: &str) -> Command {
    let mut program = match kind {
        Kind::InUse if name == "cargo" => {
            command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        }
        Kind::InUse => command(name),
        Kind::Nightly => {
            let mut rustup = command("rustup");
            rustup.args(["run", NIGHTLY, name]);
            rustup
        }
        Kind::Debian => command(format!("/usr/bin/{name}")),
    };
    for variable in [
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
    ] {
        program.env_remove(variable);
    }
    if kind != Kind::InUse {
        program.env_remove("RUSTUP_TOOLCHAIN");
    }
    if kind == Kind::Debian {
        program.env("RUSTC", "/usr/bin/rustc");
    }
    program
}

fn core_sources(sysroot: &Path) -> String {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").display().to_string()
}

/// The choice and everything that, if it changes, means choosing again.
fn remembered(toolchain: &Toolchain) -> Result<String> {
    let version = capture(program(toolchain.kind, "rustc").arg("-vV"))?;
    let sysroot = capture(program(toolchain.kind, "rustc").args(["--print", "sysroot"]))?;
    let sources = core_sources(Path::new(sysroot.trim()));
    fs::metadata(&sources).with_context(|| format!("{sources} is gone"))?;
    let linker = fs::metadata(&toolchain.linker)?;
    let changed = linker.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
    Ok(format!(
        "{}\n{}\n{} bytes, {changed}\n{version}",
        toolchain.kind.label(),
        toolchain.linker.display(),
        linker.len()
    ))
}

fn recall(record: &Path, wanted: Option<Kind>) -> Option<Toolchain> {
    let text = fs::read_to_string(record).ok()?;
    let mut lines = text.lines();
    let kind = Kind::parse(lines.next()?)?;
    if wanted.is_some_and(|wanted| wanted != kind) {
        return None;
    }
    let toolchain = Toolchain { kind, linker: PathBuf::from(lines.next()?) };
    (remembered(&toolchain).ok()? == text).then_some(toolchain)
}

/// The LLVM major in the output of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_of_rustc() {
        let version = "rustc 1.95.0 (59807616e 2026-04-14)\nhost: x86_64-unknown-linux-gnu\n\
                       release: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("LLVM version: 9"), Some(9));
        assert_eq!(llvm_major("rustc 1.95.0\n"), None);
        assert_eq!(llvm_major("LLVM version: unknown\n"), None);
    }

    #[test]
    fn labels_are_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.label()), Some(kind));
        }
        assert_eq!(Kind::parse("stable"), None);
    }
}
