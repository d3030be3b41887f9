//! Coverage-guided fuzzing by libFuzzer, on the toolchain that builds everything else: its
//! instrumentation is a pass of LLVM's. Needs a C++ compiler. The corpus grows in the target
//! directory and begins with the frames and the inputs of `tests/data`.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    command::{cargo, command, run, step},
    ebpf,
    workspace::Workspace,
};

/// Every target.
const TARGETS: [&str; 15] = [
    "answers",
    "certificate",
    "client_address",
    "decide",
    "framing",
    "key_set",
    "link",
    "listed",
    "parser",
    "path",
    "proxy_protocol",
    "records",
    "signed",
    "token",
    "upstream_limits",
];

/// Counters for edges, and comparisons told to the fuzzer (clang's `SanitizerCoverage`).
const INSTRUMENT: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// The longest input: a jumbo frame, or a sequence of small ones.
const MAX_BYTES: u32 = 10_000;

/// Fuzzes one target, or each in turn, for so long.
pub(crate) fn fuzz(workspace: &Workspace, target: Option<&str>, seconds: u32) -> Result<()> {
    let targets: Vec<&str> = match target {
        None => TARGETS.to_vec(),
        Some(name) if TARGETS.contains(&name) => vec![name],
        Some(name) => bail!("no fuzz target {name}; there are: {}", TARGETS.join(", ")),
    };
    let place = workspace.target.join("fuzz");
    ebpf::compile(workspace)?;
    let mut build = cargo(workspace);
    // With `--target`, build scripts are not instrumented.
    let host = host_target()?;
    build
        .args(["build", "--release", "--locked", "--target", &host, "--manifest-path"])
        .arg(workspace.root.join("fuzz/Cargo.toml"))
        .env("CARGO_TARGET_DIR", &place)
        .env("LIMITER_EBPF_OBJECT", workspace.ebpf_object())
        .env("RUSTFLAGS", INSTRUMENT);
    step("building the fuzz targets", &mut build)?;
    for name in targets {
        let corpus = place.join("corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        plant(&workspace.root.join("tests/data/frames"), &corpus)?;
        copy(&workspace.root.join("tests/data/fuzz").join(name), &corpus)?;
        let findings = place.join("findings").join(name);
        fs::create_dir_all(&findings)?;
        eprintln!("xtask: fuzzing {name} for {seconds} s");
        run(command(place.join(&host).join("release").join(name))
            .arg(&corpus)
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={MAX_BYTES}"))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .current_dir(&place))?;
    }
    Ok(())
}

/// The frames of the test data (text: `#` lines, the verdict, hexadecimal) as seeds.
fn plant(frames: &Path, corpus: &Path) -> Result<()> {
    for entry in fs::read_dir(frames).with_context(|| frames.display().to_string())? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
        let digits: Vec<u8> = lines.flat_map(str::bytes).filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let name = path.file_stem().context("a file has a name")?;
        fs::write(corpus.join(name), bytes)?;
    }
    Ok(())
}

/// Inputs as they are, where a target has some.
fn copy(inputs: &Path, corpus: &Path) -> Result<()> {
    for entry in fs::read_dir(inputs).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        fs::copy(&path, corpus.join(name)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The triple that this was built for.
fn host_target() -> Result<String> {
    let output = crate::command::capture(command("rustc").arg("-vV"))?;
    let host = output.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what host it is for")
}
