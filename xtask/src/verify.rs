//! Loads eBPF objects into the running kernel, with maps of their own that vanish with this
//! process, attaches nothing, and compares what the verifier says with the budget.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use aya_obj::{Object, maps::PinningType};

use crate::stack;

/// A quarter of what the kernel would verify (`BPF_COMPLEXITY_LIMIT_INSNS`, 1,000,000 since
/// 5.2): the same program costs more on other kernel versions.
const INSTRUCTIONS_BUDGET: u32 = 250_000;
/// The kernel's limit for a chain of calls (`MAX_BPF_STACK`).
const STACK_BUDGET: u32 = 512;
/// The verifier's reasons are at the end of its log.
const LOG_LINES: usize = 40;

/// Loads each object and prints one line per program.
pub(crate) fn report(objects: &[PathBuf]) -> Result<()> {
    let mut over = Vec::new();
    for path in objects {
        over.extend(report_one(path).with_context(|| path.display().to_string())?);
    }
    if !over.is_empty() {
        bail!("over budget: {}", over.join("; "));
    }
    Ok(())
}

fn report_one(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path)?;
    let stacks = stack::depths(&bytes)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let pins = PinDirectory::for_object(&bytes)?;
    let mut ebpf =
        EbpfLoader::new().default_map_pin_directory(&pins.path).load(&bytes).map_err(|error| {
            let hint = if mentions_permission(&error) { PERMISSION } else { "" };
            anyhow::Error::new(error).context(format!("its maps cannot be made{hint}"))
        })?;
    let mut over = Vec::new();
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    if names.is_empty() {
        bail!("holds no program");
    }
    for name in names {
        let instructions = load(&mut ebpf, &name, &bytes)?;
        let stack = stacks.get(&name).copied().unwrap_or(0);
        println!(
            "xtask: {file}: {name}: {instructions} instructions verified (budget \
             {INSTRUCTIONS_BUDGET}), {stack} bytes of stack (budget {STACK_BUDGET})"
        );
        if instructions > INSTRUCTIONS_BUDGET {
            over.push(format!("{name} takes {instructions} verified instructions"));
        }
        if stack > STACK_BUDGET {
            over.push(format!("{name} takes {stack} bytes of stack"));
        }
    }
    Ok(over)
}

const PERMISSION: &str =
    " (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed, and no lockdown of the kernel)";

/// Loads one program; returns how many instructions the verifier walked through.
fn load(ebpf: &mut Ebpf, name: &str, object: &[u8]) -> Result<u32> {
    let program = ebpf.program_mut(name).context("a program vanished")?;
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::TracePoint(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::BtfTracePoint(program) => {
            let btf = Btf::from_sys_fs().context("this kernel offers no BTF")?;
            let tracepoint = tracepoint(object, name)
                .with_context(|| format!("{name}: no section tp_btf/NAME"))?;
            program.load(&tracepoint, &btf)
        }
        other => bail!("{name}: xtask cannot load {:?}", other.prog_type()),
    };
    loaded.map_err(|error| rejected(name, error))?;
    let info = program.info().with_context(|| format!("{name}: no information"))?;
    let count = info.verified_instruction_count();
    count.with_context(|| format!("{name}: this kernel (before 5.16) does not count instructions"))
}

fn rejected(name: &str, error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let denied = io_error.kind() == io::ErrorKind::PermissionDenied;
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            // A program that the verifier refuses is EACCES too, but has a log.
            let hint = if denied && lines.is_empty() { PERMISSION } else { "" };
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
            anyhow::anyhow!("{name} was rejected by the kernel: {io_error}{hint}\n  {tail}")
        }
        other => anyhow::Error::new(other).context(format!("{name} cannot be loaded")),
    }
}

fn mentions_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The tracepoint that the only `tp_btf/` section of the object names. Section names are in the
/// object as they are, each ended by a zero byte.
fn tracepoint(object: &[u8], program: &str) -> Option<String> {
    const PREFIX: &[u8] = b"tp_btf/";
    let mut names: Vec<String> = object
        .windows(PREFIX.len())
        .enumerate()
        .filter(|(_, window)| *window == PREFIX)
        .filter_map(|(at, _)| {
            let rest = &object[at + PREFIX.len()..];
            let end = rest.iter().position(|byte| *byte == 0)?;
            String::from_utf8(rest[..end].to_vec()).ok()
        })
        .collect();
    // A section with relocations is named twice.
    names.sort();
    names.dedup();
    match names.as_slice() {
        [only] => Some(only.clone()),
        several => several.iter().find(|name| *name == program).cloned(),
    }
}

/// Where maps that ask for a pin get it during this check, apart from those of a running
/// limiter; removed at the end.
#[derive(Debug)]
struct PinDirectory {
    path: PathBuf,
}

impl PinDirectory {
    /// Made only if a map of `object` asks for a pin.
    fn for_object(object: &[u8]) -> Result<Self> {
        let path = PathBuf::from(format!("/sys/fs/bpf/limiter-verify-{}", std::process::id()));
        let object = Object::parse(object).context("not an eBPF object")?;
        if object.maps.values().any(|map| map.pinning() != PinningType::None) {
            fs::create_dir(&path).context(
                "its maps want pins, and /sys/fs/bpf takes none (mount -t bpf bpf /sys/fs/bpf)",
            )?;
        }
        Ok(Self { path })
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        // It may hold nothing or not exist; what matters is that nothing of ours stays.
        if let Ok(entries) = fs::read_dir(&self.path) {
            for entry in entries.flatten() {
                drop(fs::remove_file(entry.path()));
            }
        }
        drop(fs::remove_dir(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracepoints_are_read_from_section_names() {
        let object = b"\0.reltp_btf/inet_sock_set_state\0tp_btf/inet_sock_set_state\0xdp\0";
        assert_eq!(tracepoint(object, "any").as_deref(), Some("inet_sock_set_state"));
        let two = b"tp_btf/a\0tp_btf/b\0";
        assert_eq!(tracepoint(two, "b").as_deref(), Some("b"));
        assert_eq!(tracepoint(two, "c"), None);
        assert_eq!(tracepoint(b"xdp\0", "xdp"), None);
    }

    #[test]
    fn permission_is_found_behind_other_errors() {
        let inner = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = anyhow::Error::new(inner).context("outer");
        assert!(mentions_permission(error.as_ref()));
        let other = io::Error::from(io::ErrorKind::NotFound);
        assert!(!mentions_permission(&other));
    }
}
