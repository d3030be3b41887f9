//! The rules of the source tree that no compiler checks: size and shape of files, what may be
//! mentioned where, and which crate and module may know which. Source text in, offences out, each
//! with its file, line and the reason for the rule.

mod crates;
mod directions;
mod source;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use source::{Source, Token};

/// Asked for; longer is said.
const LINES: usize = 400;
/// Longer fails.
const LINES_AT_MOST: usize = 420;

/// Directories with Rust source, and the manifests beside it.
const CRATES: [&str; 5] = ["limiter-common", "limiter-ebpf", "limiter-user", "tests", "xtask"];

/// Where `unsafe` may be written; a name that ends in `/` is everything below it.
const UNSAFE_FILES: [&str; 10] = [
    "limiter-ebpf/src/",
    "limiter-user/src/allocator.rs",
    "limiter-user/src/kernel/mapped.rs",
    "limiter-user/src/kernel/plain.rs",
    "limiter-user/src/kernel/ring.rs",
    "limiter-user/src/kernel/sys.rs",
    "limiter-user/src/limits/memory.rs",
    "limiter-user/src/link/descriptors.rs",
    "limiter-user/src/proxy/privileges.rs",
    "limiter-user/src/sys.rs",
];

/// Where time is not read but in `clock.rs`. Tests wait for real things, so their crate may.
const CLOCKED: [&str; 3] = ["limiter-common/src/", "limiter-user/src/", "xtask/src/"];

/// One breach of one rule.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    file: String,
    line: usize,
    message: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// Checks the whole tree and prints every offence.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    let mut offences = Vec::new();
    let mut files = 0;
    for name in CRATES {
        let directory = workspace.root.join(name);
        let manifest = read(&directory.join("Cargo.toml"))?;
        offences.extend(crates::check(&format!("{name}/Cargo.toml"), &manifest)?);
        for path in rust_files(&directory)? {
            let relative = path.strip_prefix(&workspace.root)?.display().to_string();
            offences.extend(check(&relative, &read(&path)?));
            files += 1;
        }
    }
    for offence in &offences {
        println!("{offence}");
    }
    if !offences.is_empty() {
        bail!("{} offences in {files} files", offences.len());
    }
    eprintln!("xtask: tidy: {files} files in order");
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every `.rs` file below `directory`, sorted, without build output.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Every rule that looks at one file. `file` is relative to the root of the workspace.
fn check(file: &str, text: &str) -> Vec<Offence> {
    let source = Source::read(text);
    let mut offences = Vec::new();
    let mut offend = |line: usize, message: String| {
        offences.push(Offence { file: file.to_owned(), line, message });
    };
    shape(file, text, &mut offend);
    words(file, &source, &mut offend);
    directions::check(file, &source, &mut offend);
    offences.sort_by_key(|offence| offence.line);
    offences
}

/// Size, module documentation, name.
fn shape(file: &str, text: &str, offend: &mut dyn FnMut(usize, String)) {
    let lines = text.lines().count();
    if lines > LINES_AT_MOST {
        let reason = "a file is read in one go: split it by what it is about";
        offend(lines, format!("{lines} lines, at most {LINES}: {reason}"));
    } else if lines > LINES {
        eprintln!("xtask: tidy: {file} has {lines} lines; {LINES} are asked for");
    }
    if !text.starts_with("//!") {
        let reason = "say what flows in, what comes out, what it never does";
        offend(1, format!("does not begin with `//!`: {reason}"));
    }
    if file.ends_with("/mod.rs") {
        offend(1, "mod.rs: name the file after its module, so that it can be found".to_owned());
    }
}

/// What may not be written, or not here.
fn words(file: &str, source: &Source, offend: &mut dyn FnMut(usize, String)) {
    let may_be_unsafe = UNSAFE_FILES
        .iter()
        .any(|place| if place.ends_with('/') { file.starts_with(place) } else { file == *place });
    let may_read_time =
        file.ends_with("/clock.rs") || !CLOCKED.iter().any(|place| file.starts_with(place));
    for (at, token) in source.tokens.iter().enumerate() {
        let rest =
            |count: usize| -> &[Token] { source.tokens.get(at..at + count).unwrap_or_default() };
        let is = |texts: &[&str]| {
            let here = rest(texts.len());
            !here.is_empty()
                && here.iter().map(|token| token.text.as_str()).eq(texts.iter().copied())
        };
        if !may_be_unsafe && token.text == "unsafe" {
            let reason = "unsafe code lives in the files listed in xtask/src/tidy.rs";
            offend(token.line, format!("unsafe: {reason}"));
        }
        if is(&["#", "[", "ignore"]) {
            let reason = "a test that does not run proves nothing; `cargo xtask test` runs all";
            offend(token.line, format!("#[ignore]: {reason}"));
        }
        if is(&["#", "[", "allow"]) || is(&["#", "!", "[", "allow"]) {
            let reason = "use #[expect(lint, reason = \"...\")], which says when it is not needed";
            offend(token.line, format!("#[allow]: {reason}"));
        }
        if is(&["todo", "!"]) {
            offend(token.line, "todo!: what is not there is refused by configuration".to_owned());
        }
        let reads_time = is(&["Instant", "::", "now"])
            || is(&["SystemTime", "::", "now"])
            || is(&["clock_gettime"]);
        if reads_time && !may_read_time {
            let reason = "only clock.rs reads time, so that tests can pass their own";
            offend(token.line, format!("{} read here: {reason}", token.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(file: &str, text: &str) -> Vec<String> {
        check(file, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tidy_file_has_no_offence() {
        let text = "//! Doc with unsafe, #[ignore] and todo!() in it.\n\
                    // Instant::now\n\
                    fn f() -> &'static str { \"unsafe Instant::now() #[allow(x)]\" }\n";
        assert_eq!(messages("limiter-user/src/agent.rs", text), Vec::<String>::new());
    }

    #[test]
    fn shape_of_files() {
        let found = messages("limiter-user/src/kernel/mod.rs", "fn main() {}\n");
        assert_eq!(found.len(), 2, "{found:?}");
        let long = format!("//! x\n{}", "//\n".repeat(420));
        let found = messages("tests/src/lib.rs", &long);
        assert!(found[0].starts_with("tests/src/lib.rs:421: 421 lines"), "{found:?}");
        let tolerated = format!("//! x\n{}", "//\n".repeat(410));
        assert!(messages("tests/src/lib.rs", &tolerated).is_empty());
    }

    #[test]
    fn unsafe_only_in_listed_files() {
        let text = "//! x\n\nfn f() { unsafe { g() } }\n";
        let found = messages("limiter-user/src/agent.rs", text);
        assert!(found[0].starts_with("limiter-user/src/agent.rs:3: unsafe"), "{found:?}");
        assert!(messages("limiter-user/src/kernel/plain.rs", text).is_empty());
        assert!(messages("limiter-ebpf/src/tables.rs", text).is_empty());
        assert!(messages("limiter-user/src/agent.rs", "//! x\n#![deny(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn time_is_read_in_clock_only() {
        let text = "//! x\nuse std::time::Instant;\nfn f() { let _ = Instant :: now(); }\n";
        let found = messages("limiter-user/src/proxy/listener.rs", text);
        assert!(found[0].contains(":3: Instant read here"), "{found:?}");
        assert!(messages("limiter-user/src/clock.rs", text).is_empty());
        assert!(messages("tests/src/agent.rs", text).is_empty());
        let text = "//! x\nfn f() { libc::clock_gettime(1, p); }\n";
        assert_eq!(messages("limiter-user/src/sys.rs", text).len(), 1);
    }

    #[test]
    fn suppressions_and_gaps() {
        let text = "//! x\n#[ignore = \"slow\"]\nfn a() { todo!() }\n#![allow(dead_code)]\n\
                    #[allow(dead_code)]\n#[expect(dead_code, reason = \"x\")]\nfn allow() {}\n";
        let lines: Vec<usize> = check("tests/src/lib.rs", text).iter().map(|o| o.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
    }
}
